"""Feeds: read a catalogue from a file as a stream of product updates and refused rows.

Data passes through the modules in this order:

    reader    `read_feed`, the entry point: find the file, detect its format, stream its rows
    files     find and open the file of a feed
    formats   the table of formats: name, file suffixes, how to recognise the content, which reader
    jsonl, parquet, merchant_xml, merchant_table, shopify_csv
              one reader per format: from the file to the raw fields of each row
    rows      `RowBuilder`: from the raw fields of a row to a `ProductUpdate` or a `BadRow`

`tables` (delimited text), `html_text` and `values` (single cells) support the readers. To add a format, write a
reader `(path, builder) -> Iterator[Row]` and add one line to the table in `formats`.
"""

from streaming.feeds.formats import FORMATS
from streaming.feeds.reader import Feed, read_feed
from streaming.feeds.rows import BadRow, Row

__all__ = ["FORMATS", "BadRow", "Feed", "Row", "read_feed"]

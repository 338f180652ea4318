"""The table of feed formats: one line per format. A new format goes here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from streaming.errors import FeedError
from streaming.feeds import tables
from streaming.feeds.files import open_feed
from streaming.feeds.jsonl import read_jsonl
from streaming.feeds.merchant_table import read_merchant_table
from streaming.feeds.merchant_xml import read_merchant_xml
from streaming.feeds.parquet import read_parquet
from streaming.feeds.rows import Row, RowBuilder
from streaming.feeds.shopify_csv import is_shopify, read_shopify_csv

_SAMPLE_BYTES = 4_096


@dataclass(frozen=True)
class FeedFormat:
    """One format that a catalogue may have.

    Attributes:
        name: What users call the format, as in `--format NAME`.
        suffixes: File name endings in lower case.
        matches: Whether a file has this format, by its path and the start of its content (without a byte order mark
            and leading white space).
        read: Streams the rows of a file.
        default_currency: ISO 4217 code assumed for a price without a currency. If None, such a price is refused: a
            Merchant Center feed must state the currency of each price.
    """

    name: str
    suffixes: tuple[str, ...]
    matches: Callable[[Path, bytes], bool]
    read: Callable[[Path, RowBuilder], Iterator[Row]]
    default_currency: str | None = "USD"


def _starts_with(*marks: bytes) -> Callable[[Path, bytes], bool]:
    return lambda path, start: start.startswith(marks)


def _first_line_has(delimiter: bytes) -> Callable[[Path, bytes], bool]:
    return lambda path, start: delimiter in start.partition(b"\n")[0].partition(b"\r")[0]


def _has_shopify_columns(path: Path, start: bytes) -> bool:
    return _first_line_has(b",")(path, start) and is_shopify(tables.read_header(path, ","))


_read_tsv = partial(read_merchant_table, delimiter="\t")
_read_csv = partial(read_merchant_table, delimiter=",")

# A file has the first format that matches. A Shopify export is a special CSV file, so it comes before plain CSV.
FEED_FORMATS = (
    FeedFormat("jsonl", (".jsonl", ".ndjson"), _starts_with(b"{", b"["), read_jsonl),
    FeedFormat("parquet", (".parquet", ".pq"), _starts_with(b"PAR1"), read_parquet),
    FeedFormat("merchant-xml", (".xml", ".rss", ".atom"), _starts_with(b"<"), read_merchant_xml, None),
    FeedFormat("merchant-tsv", (".tsv",), _first_line_has(b"\t"), _read_tsv, None),
    FeedFormat("shopify-csv", (".csv",), _has_shopify_columns, read_shopify_csv),
    FeedFormat("merchant-csv", (".csv",), _first_line_has(b","), _read_csv, None),
)

FORMATS = tuple(format.name for format in FEED_FORMATS)
"""The names of all formats."""


def format_named(name: str) -> FeedFormat:
    """Return the format with this name.

    Raises:
        FeedError: No format has this name.
    """
    for format in FEED_FORMATS:
        if format.name == name:
            return format
    raise FeedError(f"The format {name!r} is unknown; it must be one of {', '.join(FORMATS)}.")


def detect_format(path: Path) -> FeedFormat:
    """Detect a file's format by its suffix, and by its content where the suffix does not decide.

    Raises:
        FeedError: The file cannot be read, or no format matches.
    """
    by_suffix = [format for format in FEED_FORMATS if path.suffix.lower() in format.suffixes]
    if len(by_suffix) == 1:
        return by_suffix[0]
    with open_feed(path) as file:
        start = file.read(_SAMPLE_BYTES).removeprefix(b"\xef\xbb\xbf").lstrip()
    for format in by_suffix or FEED_FORMATS:
        if format.matches(path, start):
            return format
    if by_suffix:
        return by_suffix[-1]  # the plain format of this suffix; its reader reports what is wrong
    raise FeedError(f"{path} has no known format; name one of {', '.join(FORMATS)}.")

"""Google Merchant Center's delimited feed (tab or comma): one product per row.

Source: Google Merchant Center product data specification, https://support.google.com/merchants/answer/7052112
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from streaming.feeds import tables
from streaming.feeds.rows import Row, RowBuilder


def read_merchant_table(path: Path, builder: RowBuilder, *, delimiter: str) -> Iterator[Row]:
    """Stream the products of a Merchant Center table; the header is row 1.

    Raises:
        FeedError: The file is not text, has no header, or lacks a required column.
    """
    header = tables.read_header(path, delimiter)
    columns = builder.columns(header)
    builder.require_columns(path, columns.values(), header)
    for number, cells in tables.rows(path, delimiter):
        if isinstance(cells, tables.BrokenRecord):
            yield builder.refuse(number, "", str(cells))
        else:
            yield builder.build(number, {columns[name]: cell for name, cell in cells.items() if name in columns})

"""One entry for all formats: `read_feed` finds out what a file is and streams its rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from pathlib import Path

from streaming.contracts import ProductUpdate
from streaming.currency import DECIMALS
from streaming.errors import FeedError
from streaming.feeds import tables
from streaming.feeds.jsonl import read_jsonl
from streaming.feeds.merchant_table import read_merchant_table
from streaming.feeds.merchant_xml import read_merchant_xml
from streaming.feeds.parquet import read_parquet
from streaming.feeds.rows import Row, RowBuilder
from streaming.feeds.shopify_csv import is_shopify, read_shopify_csv

_READERS: dict[str, Callable[[Path, RowBuilder], Iterator[Row]]] = {
    "jsonl": read_jsonl,
    "parquet": read_parquet,
    "merchant-tsv": partial(read_merchant_table, delimiter="\t"),
    "merchant-csv": partial(read_merchant_table, delimiter=","),
    "merchant-xml": read_merchant_xml,
    "shopify-csv": read_shopify_csv,
}
FORMATS = tuple(_READERS)
_SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".tsv": "merchant-tsv",
    ".xml": "merchant-xml",
    ".rss": "merchant-xml",
    ".atom": "merchant-xml",
}
_IN_FOLDER = "products.jsonl"


class Feed(Iterator[Row]):
    """The rows of one feed, read as they are asked for.

    Attributes:
        path: the file.
        format: one of `FORMATS`.
        accepted, refused: rows so far.
        unknown_columns: names that the contract does not know, and how often they were met: once a table, once a
            product in JSONL and XML.
    """

    def __init__(self, path: Path, format: str, builder: RowBuilder) -> None:
        self.path = path
        self.format = format
        self.accepted = 0
        self.refused = 0
        self._builder = builder
        self._rows = self._read()

    def _read(self) -> Iterator[Row]:
        try:
            yield from _READERS[self.format](self.path, self._builder)
        finally:
            self._builder.close()

    @property
    def unknown_columns(self) -> Counter[str]:
        return self._builder.unknown_columns

    def __next__(self) -> Row:
        try:
            row = next(self._rows)
        except StopIteration:
            if not self.accepted + self.refused:
                raise FeedError(f"{self.path} holds no products.") from None
            raise
        if isinstance(row, ProductUpdate):
            self.accepted += 1
        else:
            self.refused += 1
        return row


def read_feed(path: Path, *, now: datetime, format: str | None = None, currency: str | None = None) -> Feed:
    """Stream a catalogue's products; a bad row comes as a `BadRow` in its place and stops nothing.

    Args:
        path: the feed, or a folder that holds `products.jsonl` (and usually `images/`).
        now: the import's time (aware): the version of rows that state none.
        format: one of `FORMATS`; without it the suffix decides, and the content where the suffix does not.
        currency: ISO 4217, of prices that state none. Without it such a price is refused in a Merchant Center feed,
            whose prices have to state one, and USD elsewhere.

    Raises:
        FeedError: missing, empty or in no known format; also while iterating, when the rest cannot be read.
    """
    if now.tzinfo is None:
        raise ValueError("now must have a time zone")
    if currency is not None and currency not in DECIMALS:
        raise FeedError(f"The currency {currency!r} is no active ISO 4217 code; write it as USD or EUR.")
    if format is not None and format not in _READERS:
        raise FeedError(f"The format {format!r} is unknown; it is one of {', '.join(FORMATS)}.")
    path = _file(path)
    format = format or _format_of(path)
    default = currency if format.startswith("merchant") else currency or "USD"
    return Feed(path, format, RowBuilder(path.parent, now=now, currency=default))


def _file(path: Path) -> Path:
    if path.is_dir():
        if not (path / _IN_FOLDER).is_file():
            raise FeedError(f"The folder {path} holds no {_IN_FOLDER}; name the feed's file itself.")
        path = path / _IN_FOLDER
    if not path.exists():
        raise FeedError(f"There is no feed at {path}.")
    if not path.is_file():
        raise FeedError(f"{path} is no ordinary file.")
    if path.stat().st_size == 0:
        raise FeedError(f"{path} is empty.")
    return path


def _format_of(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix in _SUFFIXES:
        return _SUFFIXES[suffix]
    if suffix == ".csv":
        return _kind_of_csv(path)
    try:
        with open(path, "rb") as file:
            start = file.read(4_096).removeprefix(b"\xef\xbb\xbf").lstrip()
    except OSError as error:
        raise FeedError(f"{path} cannot be read: {error.strerror or error}.") from error
    if start.startswith(b"PAR1"):
        return "parquet"
    if start.startswith(b"<"):
        return "merchant-xml"
    if start.startswith((b"{", b"[")):
        return "jsonl"
    first_line = start.splitlines()[0] if start else b""
    if b"\t" in first_line:
        return "merchant-tsv"
    if b"," in first_line:
        return _kind_of_csv(path)
    raise FeedError(f"{path} is in no format that is known here; name one of {', '.join(FORMATS)}.")


def _kind_of_csv(path: Path) -> str:
    return "shopify-csv" if is_shopify(tables.read_header(path, ",")) else "merchant-csv"

"""`read_feed`: the entry point for all formats."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from streaming.contracts import ProductUpdate
from streaming.currency import DECIMALS
from streaming.errors import FeedError
from streaming.feeds.files import find_feed_file
from streaming.feeds.formats import FeedFormat, detect_format, format_named
from streaming.feeds.rows import Row, RowBuilder


class Feed(Iterator[Row]):
    """The rows of one feed; each is read when the caller asks for it.

    Attributes:
        path: The feed's file.
        format: Name of the format, one of `FORMATS`.
        accepted: Number of product updates so far.
        refused: Number of bad rows so far.
    """

    def __init__(self, path: Path, format: FeedFormat, builder: RowBuilder) -> None:
        self.path = path
        self.format = format.name
        self.accepted = 0
        self.refused = 0
        self._builder = builder
        self._rows = self._read(format)

    def _read(self, format: FeedFormat) -> Iterator[Row]:
        try:
            yield from format.read(self.path, self._builder)
        finally:
            self._builder.close()

    @property
    def unknown_columns(self) -> Counter[str]:
        """Names that the contract lacks, with the number of their occurrences.

        A table counts a column once; JSON Lines and XML count a name once per product.
        """
        return self._builder.unknown_columns

    def __next__(self) -> Row:
        """Return the next row.

        Raises:
            StopIteration: The feed has ended.
            FeedError: The rest of the file cannot be read, or the file contains no products.
        """
        try:
            row = next(self._rows)
        except StopIteration:
            if not self.accepted + self.refused:
                raise FeedError(f"{self.path} contains no products.") from None
            raise
        if isinstance(row, ProductUpdate):
            self.accepted += 1
        else:
            self.refused += 1
        return row


def read_feed(path: Path, *, now: datetime, format: str | None = None, currency: str | None = None) -> Feed:
    """Stream a catalogue's products; a bad row becomes a `BadRow` in its place and does not stop the feed.

    Args:
        path: The feed's file, or a folder that contains `products.jsonl` (and usually `images/`).
        now: Time of the import, with a time zone: the version of rows without a version.
        format: One of `FORMATS`. Without it the file's suffix decides, or its content.
        currency: ISO 4217 code of prices without a currency. If None, such a price is in USD; in a Merchant Center
            feed it is refused.

    Raises:
        FeedError: The file is missing, empty or in no known format. Iterating raises it too, when the rest of the
            file cannot be read.
        ValueError: `now` has no time zone.
    """
    if now.tzinfo is None:
        raise ValueError("now must have a time zone")
    if currency is not None and currency not in DECIMALS:
        raise FeedError(f"The currency {currency!r} is not an active ISO 4217 code; write it as USD or EUR.")
    named = format_named(format) if format is not None else None
    path = find_feed_file(path)
    chosen = named or detect_format(path)
    return Feed(path, chosen, RowBuilder(path.parent, now=now, currency=currency or chosen.default_currency))

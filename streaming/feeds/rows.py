"""Turn the raw fields of a row into one product update or one refusal; all readers use this."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from feature_repo.times import to_microseconds
from streaming.contracts import ATTRIBUTES, ProductUpdate, check_update
from streaming.errors import ContractError, FeedError
from streaming.feeds import values

# Columns that the contract lacks; each is converted (`stock` to `availability`, for example).
_SOURCES = ("category", "currency", "stock", "updated_at")
_FIELDS = ("id", "version", "event_time", "op", *ATTRIBUTES, *_SOURCES)
# Column name -> field. Sources use several names for one field; the contract's own name wins when a row has both.
ALIASES = {
    **{name: name for name in _FIELDS},
    "item_id": "id",
    "product_id": "id",
    "sku": "id",
    "name": "title",
    "url": "link",
    "product_url": "link",
    "image": "image_link",
    "image_url": "image_link",
    "additional_images": "additional_image_link",
    "additional_image_links": "additional_image_link",
    "categories": "category",
    "product_category": "category",
    "colour": "color",
    "manufacturer": "brand",
    "vendor": "brand",
    "quantity": "stock",
    "inventory": "stock",
    "currency_code": "currency",
    "last_modified": "updated_at",
    "modified_at": "updated_at",
}
# Number of different unknown names that are counted one by one: a feed with random keys must not fill the memory.
_MAX_UNKNOWN = 1_000


@dataclass(frozen=True)
class BadRow:
    """A row that was refused.

    Attributes:
        row: Row number as the user's own program shows it: 1 is a table's header, a JSON Lines file's first line, or
            the first product of an XML or Parquet feed.
        product_id: The product's id, None if unknown.
        field: The wrong field; "" if the whole row is wrong.
        rule: The rule that the field or row breaks.
    """

    row: int
    product_id: str | None
    field: str
    rule: str

    def __str__(self) -> str:
        """Return the refusal as a sentence for the user."""
        who = f"row {self.row}" if self.product_id is None else f"row {self.row} (id {self.product_id!r})"
        return f"{who}: {self.field}: {self.rule}" if self.field else f"{who}: {self.rule}"


Row = ProductUpdate | BadRow


@lru_cache(maxsize=4096)
def field_of(column: str) -> str | None:
    """Return the field of a column (`Image Link`, `g:price`, `colour`), None for an unknown column."""
    name = column.strip().casefold().removeprefix("g:").replace(" ", "_").replace("-", "_")
    return ALIASES.get(name)


class RowBuilder:
    """Builds the rows of one import and refuses an id that an earlier row has.

    Rows without a version get `now` in microseconds, the same for the whole import: a later import of the same file
    wins over an earlier one, and a row repeated within one import is refused.

    Args:
        folder: Folder of the feed; relative image paths start there.
        now: Time of the import, with a time zone.
        currency: ISO 4217 code of prices without a currency; None refuses such prices.

    Attributes:
        unknown_columns: Names that the contract lacks, with the number of their occurrences.
    """

    def __init__(self, folder: Path, *, now: datetime, currency: str | None) -> None:
        self.unknown_columns: Counter[str] = Counter()
        self._folder = folder.absolute()
        self._now = now
        self._currency = currency
        self._seen = _SeenIds()

    def columns(self, names: Iterable[str]) -> dict[str, str]:
        """Map a table's columns to fields, `{column: field}`; columns without a field are counted as unknown."""
        chosen: dict[str, str] = {}
        for name in names:
            field = field_of(name)
            if field is None:
                self.count_unknown(name)
            elif field not in chosen or name.strip().casefold() == field:
                chosen[field] = name
        return {name: field for field, name in chosen.items()}

    def require_columns(self, path: Path, fields: Iterable[str], names: Iterable[str]) -> None:
        """Check that a table has the required columns: `id`, and `title` unless it has a column `op`.

        Args:
            path: The feed's file, for the message.
            fields: The fields that the table has.
            names: All names in the table's header, for the message.

        Raises:
            FeedError: A required column is missing.
        """
        present = set(fields)
        for field in ("id",) if "op" in present else ("id", "title"):
            if field not in present:
                shown = ", ".join(names)[:200]
                raise FeedError(f"{path} has no column {field!r}; its columns are: {shown}.")

    def count_unknown(self, name: str) -> None:
        """Count an unknown column or field name."""
        listed = name in self.unknown_columns or len(self.unknown_columns) < _MAX_UNKNOWN
        shown = name[:100].encode(errors="replace").decode()
        self.unknown_columns[shown if listed else "…"] += 1

    def close(self) -> None:
        """Forget the ids of this import."""
        self._seen.close()

    def build(self, number: int, raw: Mapping[str, object]) -> Row:
        """Build one row.

        Args:
            number: Row number, for a refusal.
            raw: Field -> raw value. A field that the row does not state is absent.

        Returns:
            The product update, or the refusal.
        """
        try:
            update = self._update(raw)
        except ContractError as error:
            return self.refuse(number, error.field, error.rule, raw.get("id"))
        first_row = self._seen.add(update.id, number)
        if first_row is not None:
            return self.refuse(number, "id", f"is already used in row {first_row}; use each id once", update.id)
        return update

    def refuse(self, number: int, field: str, rule: str, product_id: object = None) -> BadRow:
        """Return the refusal of row `number`."""
        printable = isinstance(product_id, str | int) and not isinstance(product_id, bool) and product_id != ""
        shown = str(product_id)[:128].encode(errors="replace").decode() if printable else None
        return BadRow(number, shown, field, rule)

    def _update(self, raw: Mapping[str, object]) -> ProductUpdate:
        if values.is_empty(raw.get("id")):
            raise ContractError("id", "is missing")
        updated_at = values.instant("updated_at", raw.get("updated_at"))
        event_time = values.instant("event_time", raw.get("event_time")) or updated_at or self._now
        fields: dict[str, Any] = {
            "id": values.text("id", raw["id"]),
            "event_time": event_time,
            "version": self._version(raw.get("version"), updated_at),
            "op": values.text("op", raw.get("op")) or "upsert",
        }
        for name in ATTRIBUTES:
            # An absent field stays unset; a field that is present and empty is stated as empty.
            if name in raw:
                fields[name] = self._value(name, raw[name], raw)
        if "product_type" not in raw and "category" in raw:
            fields["product_type"] = values.path_of_categories(raw["category"])
        if "availability" not in raw and "stock" in raw:
            fields["availability"] = values.availability_of_stock(raw["stock"])
        try:
            update = msgspec.convert(fields, ProductUpdate)
        except msgspec.ValidationError as error:
            message, _, path = str(error).partition(" - at `$")
            raise ContractError(path.strip("`."), message) from None
        check_update(update, now=self._now)
        return update

    def _value(self, name: str, value: object, raw: Mapping[str, object]) -> object:
        match name:
            case "price":
                return values.price(value, raw.get("currency"), self._currency)
            case "availability":
                return values.availability(value)
            case "image_link":
                return values.image(name, value, self._folder)
            case "additional_image_link":
                return values.images(name, value, self._folder)
            case "product_type":
                return values.texts(name, value)
            case _:
                return values.text(name, value)

    def _version(self, value: object, updated_at: datetime | None) -> int:
        if not values.is_empty(value):
            return values.whole_number("version", value)
        return to_microseconds(updated_at or self._now)


class _SeenIds:
    """The first row of each id. On disk with a small cache: ten million ids must not fill the memory."""

    def __init__(self) -> None:
        self._database: sqlite3.Connection | None = None

    def add(self, product_id: str, row: int) -> int | None:
        """Remember the id; return the number of the earlier row that has it, None without such a row."""
        try:
            if self._database is None:
                self._database = self._open()
            inserted = self._database.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", (product_id, row))
            if inserted.rowcount:
                return None
            first = self._database.execute("SELECT row FROM seen WHERE id = ?", (product_id,)).fetchone()
        except sqlite3.Error as error:
            raise FeedError(f"The temporary folder cannot hold the ids of this import: {error}.") from error
        return int(first[0])

    def close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    @staticmethod
    def _open() -> sqlite3.Connection:
        # An empty name is a private temporary database; SQLite removes it when it is closed.
        database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -16000"):
            database.execute(f"PRAGMA {pragma}")
        database.execute("CREATE TABLE seen (id TEXT PRIMARY KEY, row INTEGER) WITHOUT ROWID")
        database.execute("BEGIN")
        return database

"""Convert one raw value of a feed (text, number, list, null) to the contract's value. Pure functions.

Each function takes the raw value and returns the contract's value, or None for an empty one. It raises ContractError,
which names the field and the rule.
"""

from __future__ import annotations

import os
import re
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from streaming.errors import ContractError

# Text fields that sources often store as whole numbers: SKUs, shoe sizes, Google's category numbers.
_WHOLE_NUMBERS = frozenset({"id", "size", "google_product_category"})
_PRICE = re.compile(r"([A-Za-z]{3})?\s*([-+]?[0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]{3})?")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_MAX_DIGITS = 32
_AVAILABILITY = {
    "in_stock": "in_stock",
    "instock": "in_stock",
    "out_of_stock": "out_of_stock",
    "outofstock": "out_of_stock",
    "preorder": "preorder",
    "pre_order": "preorder",
    "backorder": "backorder",
    "back_order": "backorder",
}


def is_empty(value: object) -> bool:
    """Return whether a value is null, blank text, or the NaN that pandas writes for a missing number."""
    return value is None or (isinstance(value, str) and not value.strip()) or value != value


def text(field: str, value: object) -> str | None:
    """Return text without white space around it."""
    if is_empty(value):
        return None
    if isinstance(value, int) and not isinstance(value, bool) and field in _WHOLE_NUMBERS:
        return str(value)
    if not isinstance(value, str):
        raise ContractError(field, f"must be text, is {_kind(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        code = ord(value[error.start])
        # `tables` reads with "surrogateescape", which turns the undecodable byte 0xNN into U+DCNN.
        what = f"byte 0x{code - 0xDC00:02X}" if 0xDC80 <= code <= 0xDCFF else f"lone surrogate U+{code:04X}"
        raise ContractError(field, f"is not valid UTF-8 ({what}); save the feed as UTF-8") from None
    return value.strip()


def texts(field: str, value: object) -> list[str] | None:
    """Return a list of texts; a single text becomes a list of one."""
    if is_empty(value):
        return None
    if not isinstance(value, list):
        value = [value]
    return [item for item in (text(field, item) for item in value) if item is not None]


def path_of_categories(value: object) -> list[str] | None:
    """Join a category path (`["Hand tools", "Hammers"]`) to one product type (`["Hand tools > Hammers"]`)."""
    names = texts("category", value)
    return [" > ".join(names)] if names else None


def price(value: object, currency: object, default: str | None) -> dict[str, Any] | None:
    """Return a price as `{"amount": Decimal, "currency": str}`.

    Args:
        value: `12.34`, `"12.34"`, `"12.34 USD"`, `"USD 12.34"` or `{"amount": ..., "currency": ...}`.
        currency: The currency that the row states in a separate column.
        default: ISO 4217 code for a row without a currency; None refuses such a row.
    """
    if isinstance(value, dict):
        currency = value.get("currency")
        value = value.get("amount")
    if is_empty(value):
        return None
    before = after = None
    if isinstance(value, str):
        match = _PRICE.fullmatch(value.strip())
        if match is None or len(value) > _MAX_DIGITS:
            raise ContractError(
                "price",
                f"{value[:40]!r} is not a price: write 1234.50 USD, with a dot, no thousands separator and no symbol",
            )
        before, digits, after = match.groups()
        amount = Decimal(digits)
    elif isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        amount = _decimal("price", value)
    else:
        raise ContractError("price", f"must be a number or text, is {_kind(value)}")
    stated = [code.upper() for code in (before, after, text("currency", currency)) if code]
    if len(set(stated)) > 1:
        raise ContractError("price", f"states two currencies, {stated[0]} and {stated[1]}")
    code = stated[0] if stated else default
    if code is None:
        raise ContractError("price", "states no currency: write 12.34 USD, or name the feed's currency")
    return {"amount": amount, "currency": code}


def availability(value: object) -> str | None:
    """Return one of Google's four words; the source may write them with spaces or underscores."""
    word = text("availability", value)
    if word is None:
        return None
    try:
        return _AVAILABILITY[re.sub(r"[\s_-]+", "_", word.lower())]
    except KeyError:
        raise ContractError(
            "availability", f"{word[:40]!r} must be in_stock, out_of_stock, preorder or backorder"
        ) from None


def availability_of_stock(value: object) -> str | None:
    """Convert a number of pieces to an availability; an oversold product (below 0) is out of stock."""
    if is_empty(value):
        return None
    return "in_stock" if number("stock", value) > 0 else "out_of_stock"


def number(field: str, value: object) -> Decimal:
    """Return a finite number, from a number or from text."""
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        raise ContractError(field, f"must be a number, is {_kind(value)}")
    return _decimal(field, value)


def whole_number(field: str, value: object) -> int:
    """Return a whole number, from a number or from text."""
    amount = number(field, value)
    if amount != amount.to_integral_value():
        raise ContractError(field, f"{str(value)[:40]!r} must be a whole number")
    return int(amount)


def instant(field: str, value: object) -> datetime | None:
    """Return a time in UTC, from ISO 8601 text or a timestamp; without a time zone it is UTC already."""
    if is_empty(value):
        return None
    if isinstance(value, str):
        value = _parse_instant(field, value.strip())
    elif isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    if not isinstance(value, datetime):
        raise ContractError(field, f"must be a time in ISO 8601, is {_kind(value)}")
    try:
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    except OverflowError:
        raise ContractError(field, f"{value} is out of range") from None


def image(field: str, value: object, folder: Path) -> str | None:
    """Return an image's link: http(s) unchanged, a path relative to the feed's folder as an absolute path."""
    link = text(field, value)
    if link is None:
        return None
    if link.startswith("//"):  # a link without a scheme, common in exports of shops
        return "https:" + link
    scheme = _SCHEME.match(link)
    if scheme is not None:
        if scheme.group(1).lower() not in ("http", "https", "file"):
            raise ContractError(field, f"{link[:60]!r} must be http, https or a file's path")
        return link
    # Text, not Path: three times as fast for a million rows. Not resolve(): it would read the disk for each row.
    if link.startswith(os.sep):
        return os.path.normpath(link)
    # Normalised as `path` is; the root folder already ends in a separator.
    prefix = f"{os.path.normpath(folder)}{os.sep}".replace(os.sep * 2, os.sep)
    path = os.path.normpath(prefix + link)
    if not path.startswith(prefix):
        raise ContractError(field, f"{link[:60]!r} leads out of the feed's folder")
    return path


def images(field: str, value: object, folder: Path) -> list[str] | None:
    """Return several image links, from a list or from text with commas (a comma inside a link is %2C)."""
    if isinstance(value, str):
        value = value.split(",")
    links = texts(field, value)
    return None if links is None else [link for link in (image(field, item, folder) for item in links) if link]


def _parse_instant(field: str, iso: str) -> datetime:
    try:
        return datetime.fromisoformat(iso)
    except ValueError:
        raise ContractError(field, f"{iso[:40]!r} is not a time: write ISO 8601, 2026-01-31T12:00:00Z") from None


def _decimal(field: str, value: str | int | float | Decimal) -> Decimal:
    # str() gives the shortest form of a float, 109.99; Decimal(109.99) would be 109.9899999999999948840923025…
    digits = str(value).strip()
    try:
        amount = Decimal(digits)
    except InvalidOperation:
        amount = Decimal("NaN")
    # Bound the exponent too: int(Decimal("1e999999999")) would take a gigabyte.
    if not amount.is_finite() or max(len(digits), amount.adjusted()) > _MAX_DIGITS:
        raise ContractError(field, f"{digits[:40]!r} is not a finite number of at most {_MAX_DIGITS} digits")
    return amount


def _kind(value: object) -> str:
    names = {bool: "true or false", dict: "an object", list: "a list", bytes: "binary", str: "text"}
    return names.get(type(value), "a number" if isinstance(value, int | float | Decimal) else type(value).__name__)

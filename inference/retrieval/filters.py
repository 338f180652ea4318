"""Filters on attributes that change often: price, category, availability. Columns beside the vectors store them.

A change of price is one write into a column; it touches neither the vector nor the graph. A filter becomes one boolean
per product, so that its selectivity is known exactly before the search begins.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from inference.arrays import BoolArray
from inference.errors import InputError

_CACHED = 256  # category filters whose matching categories are cached
_CURRENCY = re.compile(r"[A-Z]{3}")


class Attributes(msgspec.Struct, frozen=True, kw_only=True):
    """The attributes of a product for filters. An unknown attribute is None or empty; it passes no filter on it."""

    amount_minor: int | None = None  # the price in minor units (cents) of `currency`
    currency: str | None = None  # ISO 4217
    product_type: str = ""  # a path as in a product feed: "Home > Lighting > Lamps"
    availability: str | None = None  # "in_stock", "out_of_stock", "preorder", "backorder"


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which products may be found. A product must meet all conditions; one that is not set has no effect.

    Raises:
        InputError: If a price has no currency, the bounds leave no price, a category is blank or a value has a wrong
            type.
    """

    min_price: int | None = None  # minor units, inclusive
    max_price: int | None = None  # minor units, inclusive
    currency: str | None = None
    categories: tuple[
        str, ...
    ] = ()  # any of these paths or anything below it, such as "Home > Lighting"; not case-sensitive
    in_stock: bool = False  # only products that can be bought now

    def __post_init__(self) -> None:
        low, high = self.min_price, self.max_price
        for name, price in (("min_price", low), ("max_price", high)):
            if price is not None and (type(price) is not int or price < 0):
                raise InputError(f"a filter's {name} must be a whole number of minor units (cents), not {price!r}")
        if type(self.in_stock) is not bool:
            raise InputError(f"a filter's in_stock must be true or false, not {self.in_stock!r}")
        if self.currency is not None and not _CURRENCY.fullmatch(str(self.currency)):
            raise InputError(f"a filter's currency must be an ISO 4217 code such as EUR, not {self.currency!r}")
        if (low is not None or high is not None) and self.currency is None:
            raise InputError(
                f"a filter on price ({low} to {high}) needs a currency, because amounts of several cannot be compared"
            )
        if low is not None and high is not None and low > high:
            raise InputError(f"a filter's min_price ({low}) must not exceed its max_price ({high})")
        if not isinstance(self.categories, tuple) or not all(isinstance(path, str) for path in self.categories):
            raise InputError(f"a filter's categories must be a tuple of paths, not {self.categories!r}")
        if not all(map(normal_path, self.categories)):
            raise InputError(f"a filter's categories {self.categories!r} must not be blank; leave them out for all")

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Filter:
        """Make a filter from a request's fields, decoded from JSON or from a query string.

        Raises:
            InputError: If a field does not exist or has an invalid value; names it.
        """
        if unknown := sorted(fields.keys() - set(cls.__struct_fields__)):
            raise InputError(
                f"a filter has no field {', '.join(map(repr, unknown))}; its fields are "
                f"{', '.join(cls.__struct_fields__)}"
            )
        try:
            return msgspec.convert(dict(fields), cls, strict=False)
        except InputError:
            raise
        except msgspec.ValidationError as error:
            if isinstance(error.__cause__, InputError):
                raise error.__cause__ from None
            message, _, path = str(error).partition(" - at `$.")
            name = path.strip("`") or "value"
            raise InputError(f"a filter's {name} {fields.get(name)!r} is invalid: {message}") from None


class AttributeColumns:
    """The attributes of all products by row, each with its catalogue version.

    Args:
        rows: Number of rows.

    Attributes:
        version: Catalogue version of the attributes; -1 for a product without any.
        amount: Price in minor units.
        currency: Index into `currencies`; -1 without a price.
        category: Index into `categories`.
        in_stock: Whether the product can be bought now.
        currencies: The index of each currency.
        categories: The index of each normalised category path.
    """

    def __init__(self, rows: int = 0) -> None:
        self.version = np.full(rows, -1, np.int64)
        self.amount = np.zeros(rows, np.int64)
        self.currency = np.full(rows, -1, np.int32)
        self.category = np.zeros(rows, np.int32)
        self.in_stock = np.zeros(rows, np.bool_)
        self.currencies: dict[str, int] = {}
        self.categories: dict[str, int] = {"": 0}
        self._matching: dict[tuple[str, ...], BoolArray] = {}

    def resize(self, rows: int) -> None:
        """Grow all columns to a number of rows."""
        new = AttributeColumns(rows)
        for name in _COLUMNS:
            old = getattr(self, name)
            getattr(new, name)[: len(old)] = old
            setattr(self, name, getattr(new, name))

    def set(self, row: int, version: int, attributes: Attributes) -> bool:
        """Replace one product's attributes; return false if the stored ones are newer."""
        if version < self.version[row]:
            return False
        self.version[row] = version
        if attributes.amount_minor is not None and attributes.currency is not None:
            self.amount[row] = attributes.amount_minor
            self.currency[row] = self._code(self.currencies, attributes.currency)
        else:
            self.currency[row] = -1
        path = normal_path(attributes.product_type)
        if path not in self.categories:
            self._matching.clear()
        self.category[row] = self._code(self.categories, path)
        self.in_stock[row] = attributes.availability == "in_stock"
        return True

    def is_empty(self, row: int) -> bool:
        """Return whether the row's product has no attributes."""
        return not (self.currency[row] >= 0 or self.category[row] or self.in_stock[row])

    def snapshot(self, rows: int) -> AttributeColumns:
        """Return a copy of the first `rows`."""
        taken = AttributeColumns()
        for name in _COLUMNS:
            setattr(taken, name, getattr(self, name)[:rows].copy())
        taken.currencies, taken.categories = dict(self.currencies), dict(self.categories)
        return taken

    def check(self, where: Filter) -> None:
        """Refuse a filter on a currency or category that no product ever had.

        Every filter is accepted until the first product's attributes arrive.

        Raises:
            InputError: Names the value and the existing ones.
        """
        if self.currencies and where.currency is not None and where.currency not in self.currencies:
            existing = ", ".join(sorted(self.currencies))
            raise InputError(f"no product has a price in {where.currency}; there are prices in {existing}")
        if len(self.categories) == 1:  # only the empty path: no product has a category
            return
        for path in where.categories:
            if not self._categories_matching((path,)).any():
                raise InputError(f"no product has the category {path!r}; {self._existing_near(path)}")

    def _existing_near(self, path: str) -> str:
        """Name the categories at the deepest existing step of the path."""
        steps = normal_path(path).split(_SEPARATOR)
        paths = [path.split(_SEPARATOR) for path in self.categories if path]
        depth = next(d for d in range(len(steps), -1, -1) if any(other[:d] == steps[:d] for other in paths))
        near = sorted({_SEPARATOR.join(other[: depth + 1]) for other in paths if other[:depth] == steps[:depth]})
        return f"there are {', '.join(map(repr, near[:_LISTED]))}{' and others' if len(near) > _LISTED else ''}"

    def matching(self, where: Filter, rows: int) -> BoolArray:
        """Return which of the first `rows` products pass, `[rows]`."""
        passing = np.ones(rows, np.bool_)
        if where.currency is not None:
            passing &= self.currency[:rows] == self.currencies.get(where.currency, -2)
        if where.min_price is not None:
            passing &= self.amount[:rows] >= where.min_price
        if where.max_price is not None:
            passing &= self.amount[:rows] <= where.max_price
        if where.categories:
            passing &= self._categories_matching(where.categories)[self.category[:rows]]
        if where.in_stock:
            passing &= self.in_stock[:rows]
        return passing

    def _categories_matching(self, prefixes: tuple[str, ...]) -> BoolArray:
        """Return which categories lie at or below one of these paths, by index."""
        matching = self._matching.get(prefixes)
        if matching is None:
            starts = tuple(normal_path(prefix) + _SEPARATOR for prefix in prefixes)
            matching = np.fromiter(((path + _SEPARATOR).startswith(starts) for path in self.categories), np.bool_)
            if len(self._matching) >= _CACHED:
                self._matching.clear()
            self._matching[prefixes] = matching
        return matching

    @staticmethod
    def _code(codes: dict[str, int], name: str) -> int:
        return codes.setdefault(name, len(codes))


_SEPARATOR = " > "
_COLUMNS = ("version", "amount", "currency", "category", "in_stock")
_LISTED = 8  # largest number of categories that an error names


def normal_path(path: str) -> str:
    """Return a category path in the form that is compared: case-folded, single spaces, no empty steps."""
    steps = (" ".join(step.split()).casefold() for step in path.split(">"))
    return _SEPARATOR.join(step for step in steps if step)

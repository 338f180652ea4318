"""Filters on what changes often: price, category, availability. Attributes lie beside the vectors, in columns.

A change of price is one write into a column; the vector and the graph are not touched. A filter becomes one boolean
per product, so its selectivity is known exactly before the search begins.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from inference.errors import InputError

BoolArray = np.ndarray[Any, np.dtype[np.bool_]]
_REMEMBERED = 256  # category filters whose matching paths are kept


class Attributes(msgspec.Struct, frozen=True, kw_only=True):
    """What a product can be filtered by. What is not known is None or empty, and no filter on it lets it pass."""

    amount_minor: int | None = None  # the price in minor units (cents) of `currency`
    currency: str | None = None  # ISO 4217
    product_type: str = ""  # a path as in a product feed: "Home > Lighting > Lamps"
    availability: str | None = None  # "in_stock", "out_of_stock", "preorder", "backorder"


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which products may be found. All conditions hold at once; one that is not given lets everything pass.

    Raises:
        InputError: a price without a currency, bounds that leave no price, a blank category.
    """

    min_price: int | None = None  # minor units, inclusive
    max_price: int | None = None  # minor units, inclusive
    currency: str | None = None
    categories: tuple[str, ...] = ()  # any of these paths or anything below: "Home > Lighting"; case does not matter
    in_stock: bool = False  # only what can be bought now

    def __post_init__(self) -> None:
        low, high = self.min_price, self.max_price
        if (low is not None or high is not None) and self.currency is None:
            raise InputError(f"a filter on price ({low} to {high}) needs a currency: amounts of several do not compare")
        if low is not None and high is not None and low > high:
            raise InputError(f"a filter's min_price ({low}) must not exceed its max_price ({high})")
        if not isinstance(self.categories, tuple):
            raise InputError(f"a filter's categories must be a tuple of paths, not {self.categories!r}")
        if not all(map(normal_path, self.categories)):
            raise InputError(f"a filter's categories {self.categories!r} must not be blank; leave them out for all")


class AttributeColumns:
    """The attributes of products by row number, each with the catalogue version it comes from."""

    def __init__(self, rows: int = 0) -> None:
        self.version = np.full(rows, -1, np.int64)  # -1: none known
        self.amount = np.zeros(rows, np.int64)
        self.currency = np.full(rows, -1, np.int32)  # -1: no price
        self.category = np.zeros(rows, np.int32)
        self.in_stock = np.zeros(rows, np.bool_)
        self.currencies: dict[str, int] = {}
        self.categories: dict[str, int] = {"": 0}
        self._matching: dict[tuple[str, ...], BoolArray] = {}

    def resize(self, rows: int) -> None:
        """Make room for so many rows."""
        new = AttributeColumns(rows)
        for name in ("version", "amount", "currency", "category", "in_stock"):
            old = getattr(self, name)
            getattr(new, name)[: len(old)] = old
            setattr(self, name, getattr(new, name))

    def set(self, row: int, version: int, attributes: Attributes) -> bool:
        """Replace one product's attributes; false when a newer version's are there."""
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

    def matching(self, where: Filter, rows: int) -> BoolArray:
        """Which of the first `rows` products pass: `[rows]`."""
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
        """Which category codes lie at or below one of these paths."""
        known = self._matching.get(prefixes)
        if known is None:
            starts = tuple(normal_path(prefix) + _SEPARATOR for prefix in prefixes)
            known = np.fromiter(((path + _SEPARATOR).startswith(starts) for path in self.categories), np.bool_)
            if len(self._matching) >= _REMEMBERED:
                self._matching.clear()
            self._matching[prefixes] = known
        return known

    @staticmethod
    def _code(codes: dict[str, int], name: str) -> int:
        return codes.setdefault(name, len(codes))


_SEPARATOR = " > "


def normal_path(path: str) -> str:
    """A category path as it is compared: case folded, one form of white space, no empty steps."""
    steps = (" ".join(step.split()).casefold() for step in path.split(">"))
    return _SEPARATOR.join(step for step in steps if step)

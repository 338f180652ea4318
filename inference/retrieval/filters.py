"""Filters on what changes often: price, category, availability. Attributes lie beside the vectors, in columns.

A change of price is one write into a column; the vector and the graph are not touched. A filter becomes one boolean
per product, so its selectivity is known exactly before the search begins.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from inference.arrays import BoolArray
from inference.errors import InputError

_REMEMBERED = 256  # category filters whose matching paths are kept
_CURRENCY = re.compile(r"[A-Z]{3}")


class Attributes(msgspec.Struct, frozen=True, kw_only=True):
    """What a product can be filtered by. What is not known is None or empty, and no filter on it lets it pass."""

    amount_minor: int | None = None  # the price in minor units (cents) of `currency`
    currency: str | None = None  # ISO 4217
    product_type: str = ""  # a path as in a product feed: "Home > Lighting > Lamps"
    availability: str | None = None  # "in_stock", "out_of_stock", "preorder", "backorder"


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which products may be found. All conditions hold at once; one that is not given lets everything pass.

    Raises:
        InputError: a price without a currency, bounds that leave no price, a blank category, a value of another kind.
    """

    min_price: int | None = None  # minor units, inclusive
    max_price: int | None = None  # minor units, inclusive
    currency: str | None = None
    categories: tuple[str, ...] = ()  # any of these paths or anything below: "Home > Lighting"; case does not matter
    in_stock: bool = False  # only what can be bought now

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
            raise InputError(f"a filter on price ({low} to {high}) needs a currency: amounts of several do not compare")
        if low is not None and high is not None and low > high:
            raise InputError(f"a filter's min_price ({low}) must not exceed its max_price ({high})")
        if not isinstance(self.categories, tuple) or not all(isinstance(path, str) for path in self.categories):
            raise InputError(f"a filter's categories must be a tuple of paths, not {self.categories!r}")
        if not all(map(normal_path, self.categories)):
            raise InputError(f"a filter's categories {self.categories!r} must not be blank; leave them out for all")

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Filter:
        """A filter from a request's fields, as JSON or as the texts of a query string.

        Raises:
            InputError: a field that there is not, or a value that cannot be; names it.
        """
        if unknown := sorted(fields.keys() - set(cls.__struct_fields__)):
            raise InputError(
                f"a filter has no field {', '.join(map(repr, unknown))}; there are {', '.join(cls.__struct_fields__)}"
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
            raise InputError(f"a filter's {name} {fields.get(name)!r} cannot be used: {message}") from None


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
        for name in _COLUMNS:
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

    def is_empty(self, row: int) -> bool:
        """Whether nothing is known of the row's product."""
        return not (self.currency[row] >= 0 or self.category[row] or self.in_stock[row])

    def snapshot(self, rows: int) -> AttributeColumns:
        """A copy of the first `rows`."""
        taken = AttributeColumns()
        for name in _COLUMNS:
            setattr(taken, name, getattr(self, name)[:rows].copy())
        taken.currencies, taken.categories = dict(self.currencies), dict(self.categories)
        return taken

    def check(self, where: Filter) -> None:
        """Refuse a filter on what no product ever had; nothing is refused before the first product's attributes.

        Raises:
            InputError: names the value, and what there is.
        """
        if self.currencies and where.currency is not None and where.currency not in self.currencies:
            there = ", ".join(sorted(self.currencies))
            raise InputError(f"no product has a price in {where.currency}; there are prices in {there}")
        if len(self.categories) == 1:  # "": none is known
            return
        for path in where.categories:
            if not self._categories_matching((path,)).any():
                raise InputError(f"no product has the category {path!r}; {self._told_beside(path)}")

    def _told_beside(self, path: str) -> str:
        """The categories at the last step of the path that there is."""
        steps = normal_path(path).split(_SEPARATOR)
        known = [known.split(_SEPARATOR) for known in self.categories if known]
        depth = next(d for d in range(len(steps), -1, -1) if any(other[:d] == steps[:d] for other in known))
        beside = sorted({_SEPARATOR.join(other[: depth + 1]) for other in known if other[:depth] == steps[:depth]})
        return f"there are {', '.join(map(repr, beside[:_TOLD]))}{' and others' if len(beside) > _TOLD else ''}"

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
_COLUMNS = ("version", "amount", "currency", "category", "in_stock")
_TOLD = 8  # categories that an error names


def normal_path(path: str) -> str:
    """A category path as it is compared: case folded, one form of white space, no empty steps."""
    steps = (" ".join(step.split()).casefold() for step in path.split(">"))
    return _SEPARATOR.join(step for step in steps if step)

"""Money in several currencies: minor units, and a table of rates that stays fixed for a report."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from math import isfinite

from analysis.errors import DataError

# ISO 4217: decimal digits of a currency's minor unit, where they are not two.
_EXPONENTS = dict.fromkeys(
    ("BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "VND", "VUV", "XAF", "XOF", "XPF"), 0
) | dict.fromkeys(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"), 3)


def exponent(currency: str) -> int:
    """Return the decimal digits of a currency: 2 for EUR (100 cents), 0 for JPY, 3 for KWD."""
    return _EXPONENTS.get(currency, 2)


@dataclass(frozen=True)
class Rates:
    """Value of one unit of each currency in the base currency: `Rates("EUR", {"USD": 0.92}, date(2026, 6, 1))`.

    The table stays fixed for a report and is part of it: a lift must not change because a rate changed. Rates are per
    major unit (one dollar, one yen), as they are published; `factor` converts minor units.

    Attributes:
        base: The base currency.
        rates: Value of one unit of each other currency in the base currency.
        as_of: Date of the rates.
        source: Where the rates come from.

    Raises:
        DataError: A code is not three capital letters, or a rate is not above 0.
    """

    base: str
    rates: Mapping[str, float]
    as_of: date
    source: str = ""
    _table: dict[str, float] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        for currency in (self.base, *self.rates):
            if not (len(currency) == 3 and currency.isascii() and currency.isupper()):
                raise DataError(f"{currency!r} is not a currency code. Give ISO 4217 codes, for example EUR.")
        for currency, rate in self.rates.items():
            if not (isfinite(rate) and rate > 0):
                raise DataError(f"The rate of {currency} is {rate}, and must be a number above 0.")
        if self.rates.get(self.base, 1.0) != 1.0:
            raise DataError(f"The rate of the base currency {self.base} is {self.rates[self.base]}, and must be 1.")
        self._table.update({self.base: 1.0, **self.rates})

    @property
    def currencies(self) -> tuple[str, ...]:
        """All currencies that can be converted, including the base, sorted."""
        return tuple(sorted(self._table))

    def factor(self, currency: str) -> float:
        """Return the factor from minor units of a currency to minor units of the base currency."""
        return float(self._table[currency] * 10.0 ** (exponent(self.base) - exponent(currency)))

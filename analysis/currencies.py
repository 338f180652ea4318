"""Money in several currencies: minor units, and a table of rates that stays fixed for a report."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from difflib import get_close_matches
from math import isfinite

from analysis.errors import DataError

_TWO = """
AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CNY
COP CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS
INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR
MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD
SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD UYU UZS VED VES WST XCD XCG YER ZAR ZMW ZWG
""".split()
_NONE = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX VND VUV XAF XOF XPF".split()
_THREE = "BHD IQD JOD KWD LYD OMR TND".split()

DECIMALS: Mapping[str, int] = {**dict.fromkeys(_TWO, 2), **dict.fromkeys(_NONE, 0), **dict.fromkeys(_THREE, 3)}
"""ISO 4217: the active currency codes, and the decimals of their minor units."""


def currency_code(text: str) -> str:
    """Return the ISO 4217 code that a text names, in capital letters: `jpy` is JPY.

    Raises:
        DataError: There is no such code.
    """
    code = text.strip().upper()
    if code in DECIMALS:
        return code
    near = get_close_matches(code, DECIMALS, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise DataError(f"{text!r} is not a currency code. Give ISO 4217 codes, for example EUR.{hint}")


def exponent(currency: str) -> int:
    """Return the decimal digits of a currency: 2 for EUR (100 cents), 0 for JPY, 3 for KWD."""
    return DECIMALS[currency_code(currency)]


@dataclass(frozen=True)
class Rates:
    """Value of one unit of each currency in the base currency: `Rates("EUR", {"USD": 0.92}, date(2026, 6, 1))`.

    The table stays fixed for a report and is part of it: a lift must not change because a rate changed. Rates are per
    major unit (one dollar, one yen), as they are published; `factor` converts minor units.

    Attributes:
        base: The base currency. All codes are ISO 4217, in capital or small letters.
        rates: Value of one unit of each other currency in the base currency.
        as_of: Date of the rates.
        source: Where the rates come from.

    Raises:
        DataError: A code is unknown or given twice, or a rate is not above 0.
    """

    base: str
    rates: Mapping[str, float]
    as_of: date
    source: str = ""
    _table: dict[str, float] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "base", currency_code(self.base))
        rates = {currency_code(currency): rate for currency, rate in self.rates.items()}
        if len(rates) < len(self.rates):
            raise DataError(
                f"The table of rates names a currency twice: {', '.join(self.rates)}. Keep one rate of each."
            )
        object.__setattr__(self, "rates", rates)
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

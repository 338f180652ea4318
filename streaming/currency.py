"""ISO 4217: the active currency codes and how many decimals their minor units have."""

from __future__ import annotations

from decimal import MAX_EMAX, MAX_PREC, MIN_EMIN, Context, Decimal

_TWO = """
AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CNY
COP CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS
INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR
MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD
SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD UYU UZS VED VES WST XCD XCG YER ZAR ZMW ZWG
""".split()
_NONE = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX VND VUV XAF XOF XPF".split()
_THREE = "BHD IQD JOD KWD LYD OMR TND".split()

DECIMALS: dict[str, int] = {**dict.fromkeys(_TWO, 2), **dict.fromkeys(_NONE, 0), **dict.fromkeys(_THREE, 3)}

# The default context would round what has more than 28 digits.
_EXACT = Context(prec=MAX_PREC, Emax=MAX_EMAX, Emin=MIN_EMIN)
_MAX_DIGITS = 18  # of an amount in minor units, so that 64 bits hold it


def to_minor(amount: Decimal, currency: str) -> int:
    """Return the amount in minor units (cents): `to_minor(Decimal("12.34"), "USD") == 1234`.

    Args:
        amount: The amount in major units.
        currency: ISO 4217 code.

    Raises:
        ValueError: The currency is unknown, or the amount is not finite, too large, or has more decimals than the
            currency.
    """
    try:
        decimals = DECIMALS[currency]
    except KeyError:
        raise ValueError(f"{currency!r} is not an active ISO 4217 currency code") from None
    if not amount.is_finite() or (amount and amount.adjusted() + decimals >= _MAX_DIGITS):
        raise ValueError(f"{shown(amount)} must be finite, with at most {_MAX_DIGITS} digits in minor units")
    scaled = amount.scaleb(decimals, _EXACT)
    whole = scaled.to_integral_value(context=_EXACT)
    if scaled != whole:
        raise ValueError(f"{shown(amount)} has more decimals than {currency} ({decimals})")
    return int(whole)


def shown(amount: Decimal) -> str:
    """Return the amount as text for a message, shortened: a hostile amount may have a million digits."""
    text = str(amount)
    return text if len(text) <= 40 else f"{text[:30]}… ({len(text)} characters)"


def from_minor(minor: int, currency: str) -> Decimal:
    """Return minor units as an amount; inverse of `to_minor`: `from_minor(1234, "USD") == Decimal("12.34")`."""
    return Decimal(minor).scaleb(-DECIMALS[currency])

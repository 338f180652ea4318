"""Amounts in the minor units of ISO 4217 currencies."""

from __future__ import annotations

from decimal import MAX_EMAX, MAX_PREC, MIN_EMIN, Context, Decimal

from analysis.currencies import DECIMALS

__all__ = ["DECIMALS", "shown", "to_minor"]

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

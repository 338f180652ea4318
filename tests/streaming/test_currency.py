"""Amounts in minor units are exact or refused."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.currency import DECIMALS, from_minor, to_minor


@pytest.mark.parametrize(
    ("amount", "currency", "minor"),
    [
        ("12.34", "USD", 1234),
        ("12.3", "USD", 1230),
        ("12", "JPY", 12),
        ("1.234", "KWD", 1234),
        ("1E+3", "EUR", 100_000),
        ("0.00", "EUR", 0),
        ("-0.01", "EUR", -1),
        ("12.34" + "0" * 5_000, "EUR", 1234),
        ("9999999999999999.99", "EUR", 999_999_999_999_999_999),
    ],
)
def test_amounts_scale_by_the_decimals_of_the_currency(amount: str, currency: str, minor: int) -> None:
    assert to_minor(Decimal(amount), currency) == minor


@pytest.mark.parametrize(
    ("amount", "currency", "rule"),
    [
        ("0.001", "USD", "more decimals than USD"),
        ("1.5", "JPY", "more decimals than JPY"),
        ("0." + "0" * 40 + "1", "USD", "more decimals"),
        # 29 digits and more: arithmetic in the default context would round the last ones away.
        ("1." + "0" * 40 + "1", "USD", "more decimals"),
        ("1E-999999999", "USD", "more decimals"),
        ("1" * 19, "USD", "18 digits"),
        ("1E+999999999", "USD", "18 digits"),
        ("NaN", "USD", "finite"),
        ("-Infinity", "USD", "finite"),
        ("1", "XXX", "ISO 4217"),
        ("1", "usd", "ISO 4217"),
    ],
)
def test_an_amount_that_is_not_a_whole_number_of_minor_units_is_refused(amount: str, currency: str, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        to_minor(Decimal(amount), currency)


def test_the_message_about_a_huge_amount_is_short() -> None:
    with pytest.raises(ValueError, match="decimals") as caught:
        to_minor(Decimal("0." + "3" * 100_000), "USD")
    assert len(str(caught.value)) < 200


@given(st.integers(-(10**17), 10**17), st.sampled_from(sorted(DECIMALS)))
def test_from_minor_is_the_inverse(minor: int, currency: str) -> None:
    assert to_minor(from_minor(minor, currency), currency) == minor

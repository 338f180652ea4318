"""A fixed table of rates converts minor units of currencies with any number of digits."""

from datetime import date
from typing import Any

import pytest

from analysis.currencies import Rates, exponent
from analysis.errors import DataError

DAY = date(2026, 6, 1)


def test_minor_units_are_converted_with_the_digits_of_both_currencies() -> None:
    rates = Rates("EUR", {"USD": 0.92, "JPY": 0.0061, "KWD": 3.0}, DAY)
    assert rates.factor("EUR") == 1.0
    assert rates.factor("USD") == pytest.approx(0.92)
    assert 1000 * rates.factor("JPY") == pytest.approx(610)  # 1,000 yen are 6.10 EUR, 610 cents
    assert 1000 * rates.factor("KWD") == pytest.approx(300)  # 1.000 dinar is 3.00 EUR
    assert Rates("JPY", {"USD": 150.0}, DAY).factor("USD") == pytest.approx(1.5)  # a cent is 1.5 yen
    assert rates.currencies == ("EUR", "JPY", "KWD", "USD")
    assert [exponent(c) for c in ("EUR", "JPY", "KWD")] == [2, 0, 3]


def test_codes_are_the_same_in_small_letters() -> None:
    assert Rates("eur", {"Jpy": 0.0061}, DAY) == Rates("EUR", {"JPY": 0.0061}, DAY)
    assert exponent("jpy") == 0


@pytest.mark.parametrize(
    ("base", "rates", "message"),
    [
        ("euro", {}, "'euro' is not a currency code. .* Did you mean EUR"),
        ("EUR", {"Dollar": 1.0}, "'Dollar' is not a currency code"),
        ("EUR", {"XXX": 1.0}, "'XXX' is not a currency code"),
        ("EUR", {"USD": 1.0, "usd": 1.1}, "names a currency twice"),
        ("EUR", {"USD": 0.0}, "must be a number above 0"),
        ("EUR", {"USD": float("nan")}, "must be a number above 0"),
        ("EUR", {"EUR": 1.1}, "must be 1"),
    ],
)
def test_rates_that_cannot_be_meant_are_refused(base: str, rates: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Rates(base, rates, DAY)

"""Which columns a source with one row per unit reads, and which options need each other."""

from datetime import date

import pytest

from analysis.columns import Filter
from analysis.currencies import Rates
from analysis.errors import DataError
from analysis.metrics import Mean, Ratio, merged_needs
from analysis.sources.user_columns import UserColumns

RATES = Rates("EUR", {"USD": 0.9}, date(2026, 6, 1))


def test_every_column_is_read_once_keys_first_then_numbers_then_filters() -> None:
    german = Filter("country", "=", "de")
    needs = merged_needs(
        [
            Mean(name="gmv", column="gmv", covariate="pre"),
            Ratio(name="ctr", numerator="clicks", denominator="views", where=(german,)),
        ]
    )
    columns = UserColumns(unit="user", day="day", segment="country", where=(Filter("views", ">", 2),))
    assert columns.names(needs) == ["variant", "user", "day", "country", "clicks", "gmv", "pre", "views"]
    assert UserColumns(variant=None).names(needs) == ["clicks", "gmv", "pre", "views", "country"]


@pytest.mark.parametrize(
    "columns",
    [{"rates": RATES}, {"rates": RATES, "money": ("gmv",)}, {"rates": RATES, "currency_column": "currency"}],
)
def test_rates_need_the_column_of_currencies_and_the_columns_of_money(columns: dict[str, object]) -> None:
    with pytest.raises(DataError, match="Rates are given, but not what to convert"):
        UserColumns(**columns)  # type: ignore[arg-type]
    assert UserColumns(rates=RATES, money=("gmv",), currency_column="currency").rates is RATES


def test_the_end_of_the_covariates_needs_the_first_exposure() -> None:
    with pytest.raises(DataError, match="compared with the first exposure, which is missing"):
        UserColumns(covariate_until="until")
    assert UserColumns(covariate_until="until", day="day").day == "day"

"""Caps, currencies and days in the query over one row per user."""

from datetime import date

import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pytest

from analysis.columns import Cap
from analysis.errors import DataError, MetricError, MissingRateError
from analysis.metrics import Mean, merged_needs
from analysis.sources import UserTable
from tests.analysis.sources.builders import METRICS, OPTIONS, P99, collect, frame


def test_instants_are_cut_into_utc_days() -> None:
    times = pd.to_datetime(["2026-06-01T23:59:59Z", "2026-06-02T00:00:00Z", "2026-06-02T01:00:00+02:00"], utc=True)
    data = pd.DataFrame({"variant": "a", "x": [1.0, 2.0, 4.0], "first": times})
    collected = collect(UserTable(data, day="first"), (Mean(name="x", column="x"),))
    assert [collected.moments(until=day).n for day in collected.days] == [2, 3]


def test_a_cap_is_pooled_over_the_arms_not_taken_in_each() -> None:
    """A treatment with larger values must not get a larger cap."""
    data = pd.DataFrame({"variant": ["a"] * 100 + ["b"] * 100, "x": [*range(1, 101), *range(101, 201)]})
    metric = Mean(name="x", column="x", cap=Cap(upper_quantile=0.5))
    collected = collect(UserTable(data), (metric,))
    assert collected.limits[metric.inputs[0]].upper == 100
    assert (collected.capped(metric.inputs[0], "a"), collected.capped(metric.inputs[0], "b")) == (0, 100)
    assert collected.moments("b").means[metric.inputs[0]] == 100


def test_a_lower_limit_and_an_absolute_one() -> None:
    data = pd.DataFrame({"variant": "a", "x": [-50.0, 0.0, 5.0, 900.0]})
    metric = Mean(name="x", column="x", cap=Cap(upper=100, lower_quantile=0.3))
    collected = collect(UserTable(data), (metric,))
    limits = collected.limits[metric.inputs[0]]
    assert (limits.lower, limits.upper) == (0.0, 100)
    assert collected.moments("a").means[metric.inputs[0]] == (0 + 0 + 5 + 100) / 4
    assert collected.capped(metric.inputs[0], "a") == 2


def test_a_quantile_cap_that_comes_out_as_zero_is_refused() -> None:
    """99 % quantile over all visitors of a shop where 1 % buy."""
    data = pd.DataFrame({"variant": ["a", "b"] * 500, "gmv": [0] * 995 + [100] * 5})
    with pytest.raises(MetricError, match=r"gmv capped <= p99 is 0, .* non-zero values"):
        collect(UserTable(data), (Mean(name="gmv", column="gmv", cap=Cap(upper_quantile=0.99)),))
    with pytest.raises(MetricError, match="All values of gmv are 0"):
        collect(UserTable(data.assign(gmv=0)), (Mean(name="gmv", column="gmv", cap=P99),))
    assert collect(UserTable(data), (Mean(name="gmv", column="gmv", cap=P99),)).limits


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_cap_does_not_hide_nan_or_infinity(value: float) -> None:
    data = pa.table({"variant": ["a", "a", "b"], "gmv": [1.0, value, 3.0]})
    with pytest.raises(DataError, match="gmv of arm 'a' holds NaN, infinite"):
        collect(UserTable(data), (Mean(name="gmv", column="gmv", cap=Cap(upper=2)),))


def test_a_currency_without_a_rate_is_named() -> None:
    data = frame(100).assign(currency=["EUR", "CHF", "SEK", "USD"] * 25)
    with pytest.raises(MissingRateError, match=r"none for CHF, SEK; it has EUR, JPY, USD"):
        collect(UserTable(data, **OPTIONS))
    with pytest.raises(DataError, match="not what to convert"):
        UserTable(data, rates=OPTIONS["rates"])


def test_covariates_that_reach_beyond_exposure_are_counted(data: pd.DataFrame) -> None:
    late = data.assign(until=[date(2026, 6, 2)] * len(data))
    options = {**OPTIONS, "where": ()}
    facts = UserTable(late, **options).collect(merged_needs(METRICS)).facts
    assert facts.late_covariates == sum(day < date(2026, 6, 2) for day in late.day) > 0
    facts = UserTable(data, **options).collect(merged_needs(METRICS)).facts
    assert facts.late_covariates == 0

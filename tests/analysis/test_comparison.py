"""The two arms of a report, the effect on a metric, and its numbers."""

import pandas as pd
import pytest

from analysis.comparison import ArmPair, bounds_of, comparison_of, effect_on
from analysis.inference import LiftInterval, Undefined, compare
from analysis.metrics import Declared, Mean, Quantile, merged_needs
from analysis.sources import UserTable
from tests.analysis.reports import with_days

GMV = Mean(name="gmv", column="gmv", covariate="views")
MEDIAN = Quantile(name="median", column="gmv")


def pair_of(data: pd.DataFrame, *metrics: Declared) -> ArmPair:
    source = UserTable(data, day="day", segment="country")
    return ArmPair(source.collect(merged_needs(metrics or (GMV, MEDIAN))), "a", "b", {"a": 0.5, "b": 0.5})


@pytest.fixture(scope="module")
def data() -> pd.DataFrame:
    data = with_days(600, days=4, lift=0.2)
    data["views"] = data["gmv"] / 2 + data["clicks"]  # a covariate that explains much
    return data


def test_moments_are_those_of_the_arms_and_are_computed_once(data: pd.DataFrame) -> None:
    pair = pair_of(data)
    control, treatment = pair.moments()
    assert (control.n, treatment.n) == tuple(data.variant.value_counts()[["a", "b"]])
    assert pair.moments()[0] is control
    german, _ = pair.moments(segment="de")
    assert german.n == ((data.variant == "a") & (data.country == "de")).sum()
    first_day, _ = pair.moments(until=pair.aggregates.days[0])
    assert first_day.n == ((data.variant == "a") & (data.day == data.day.min())).sum()


def test_the_effect_on_a_mean_is_that_of_the_moments_with_and_without_covariates(data: pd.DataFrame) -> None:
    pair = pair_of(data)
    moments = pair.moments()
    for adjust in (True, False):
        effect = effect_on(GMV, pair, *moments, alpha=0.05, interval="fieller", adjust=adjust)
        assert effect == compare(GMV, *moments, alpha=0.05, method="fieller", adjust=adjust)
        method = comparison_of(GMV, effect, "fieller").method
        assert method == ("cuped+welch+fieller" if adjust else "welch+fieller")


def test_the_effect_on_a_quantile_is_over_all_units(data: pd.DataFrame) -> None:
    pair = pair_of(data)
    whole = effect_on(MEDIAN, pair, *pair.moments(), alpha=0.05, interval="log")
    segment = effect_on(MEDIAN, pair, *pair.moments(segment="de"), alpha=0.05, interval="log")
    assert whole == segment
    result = comparison_of(MEDIAN, whole, "log")
    medians = data.groupby("variant").gmv.quantile(0.5, interpolation="lower")
    assert result.method == "order-statistics+log"
    assert result.lift == pytest.approx(medians["b"] / medians["a"] - 1, rel=0.05)


def test_a_quantile_of_too_few_units_is_undefined_and_has_no_numbers(data: pd.DataFrame) -> None:
    one = pd.concat([data[data.variant == "a"].head(1), data[data.variant == "b"]])
    pair = pair_of(one)
    effect = effect_on(MEDIAN, pair, *pair.moments(), alpha=0.05, interval="fieller")
    assert isinstance(effect, Undefined)
    assert "the control has 1 unit(s)" in effect.reason
    result = comparison_of(MEDIAN, effect, "fieller")
    assert (result.lift, result.p, result.df, result.interval, result.method) == (None, None, None, "undefined", "none")


def test_only_a_bounded_interval_has_bounds() -> None:
    assert bounds_of(LiftInterval(-0.1, 0.2, "bounded", "fieller")) == (-0.1, 0.2)
    assert bounds_of(LiftInterval(-0.1, 0.2, "outside", "fieller")) == (None, None)
    assert bounds_of(None) == (None, None)

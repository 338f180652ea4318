"""A metric's gradient is the derivative of its value, and impossible declarations are refused."""

import pytest

from analysis.aggregates import Column, Rule
from analysis.columns import Cap
from analysis.errors import AnalysisError, MetricError
from analysis.metrics import (
    Count,
    Mean,
    Metric,
    Proportion,
    Quantile,
    Ratio,
    Retention,
    merged_needs,
    shop_metrics,
)

A, B = Column("a"), Column("b")


@pytest.mark.parametrize(
    "metric",
    [
        Mean(name="m", column="a"),
        Ratio(name="r", numerator="a", denominator="b"),
        Proportion(name="p", column="a"),
    ],
)
def test_the_gradient_is_the_derivative_of_the_value(metric: Metric) -> None:
    means = {A: 3.0, B: 4.0, Column("a", positive=True): 0.3}
    gradient = metric.gradient(means)
    assert set(gradient) == set(metric.inputs)
    for column, slope in gradient.items():
        up, down = ({**means, column: means[column] + step} for step in (1e-6, -1e-6))
        numeric = (metric.value(up) - metric.value(down)) / 2e-6  # type: ignore[operator]
        assert slope == pytest.approx(numeric, rel=1e-8)


def test_a_ratio_over_nothing_is_undefined() -> None:
    assert Ratio(name="r", numerator="a", denominator="b").value({A: 1.0, B: 0.0}) is None


def test_impossible_declarations_are_refused() -> None:
    with pytest.raises(MetricError, match="own column 'a' as covariate"):
        Mean(name="m", column="a", covariate="a")
    with pytest.raises(MetricError, match="own column 'b' as covariate"):
        Ratio(name="m", numerator="a", denominator="b", covariate="b")
    with pytest.raises(MetricError, match="divides 'a' by itself"):
        Ratio(name="r", numerator="a", denominator="a")
    with pytest.raises(MetricError, match="empty name"):
        Mean(name="", column="a")
    with pytest.raises(MetricError, match="No metrics"):
        merged_needs([])
    with pytest.raises(MetricError, match="Two metrics have the name 'm'"):
        merged_needs([Mean(name="m", column="a"), Mean(name="m", column="b")])
    assert issubclass(MetricError, ValueError)
    assert issubclass(MetricError, AnalysisError)


def test_the_shop_metrics_have_net_and_gross_side_by_side() -> None:
    names = [metric.name for metric in shop_metrics()]
    assert {"gmv_per_user", "gmv_gross_per_user", "clicks_per_user", "orders_per_user", "ctr", "aov"} <= set(names)
    assert all(metric.covariate is None for metric in shop_metrics(covariates=False))
    assert all(metric.description for metric in shop_metrics())


def test_covariates_may_be_several_and_ratios_of_two_columns() -> None:
    metric = Mean(name="m", column="a", covariate="x", covariates=("x", "y/z"))
    assert [(type(adjuster), adjuster.name) for adjuster in metric.adjusters] == [(Mean, "x"), (Ratio, "y/z")]
    assert {column.name for column in metric.needs.columns} == {"a", "x", "y", "z"}
    with pytest.raises(MetricError, match="own column 'a' as covariate"):
        Mean(name="m", column="a", covariates=("x", "a/b"))


def test_each_kind_declares_what_sound_data_obeys() -> None:
    share = Ratio(name="r", numerator="a", denominator="b", unit="share")
    assert share.rules == {Rule(A), Rule(B), Rule(A, B)}
    assert Ratio(name="r", numerator="a", denominator="b", unit="money").rules == {Rule(B)}  # refunds may exceed
    assert Count(name="c", column="a").rules == {Rule(A)}
    assert Mean(name="m", column="a").rules == frozenset()


def test_a_capped_mean_asks_for_the_plain_one_too() -> None:
    metric = Mean(name="m", column="a", cap=Cap(upper=5))
    assert {A, Column("a", cap=Cap(upper=5))} <= metric.needs.columns
    assert metric.uncapped == Mean(name="m", column="a")


def test_margins_and_quantiles_that_cannot_be_are_refused() -> None:
    with pytest.raises(MetricError, match="only guardrails have one"):
        Mean(name="m", column="a", margin=0.1)
    with pytest.raises(MetricError, match="must lie between 0 and 1"):
        Mean(name="m", column="a", role="guardrail", margin=2)
    for q in (0.0, 1.0):
        with pytest.raises(MetricError, match="must lie between 0 and 1"):
            Quantile(name="q", column="a", q=q)


def test_retention_is_a_proportion_in_the_second_week_unless_said_otherwise() -> None:
    (column,) = Retention(name="r").inputs
    assert (column.name, column.positive) == ("events", True)
    assert str(column.window) == "day 7 to 14"

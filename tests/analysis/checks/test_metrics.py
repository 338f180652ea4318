"""Checks of the metrics, at and around their thresholds."""

import numpy as np
import pytest

from analysis.aggregates import Cell, Column, Moments, Tail, moments_of
from analysis.checks.metrics import (
    automated_traffic,
    balance_before_exposure,
    covariates_before_exposure,
    few_buyers,
    heavy_tail,
    variance,
)
from analysis.metrics import Count, Mean, Proportion
from analysis.sample_moments import sample_moments
from analysis.sources.base import Facts

GMV = Mean(name="gmv", label="GMV", column="gmv", role="goal")


def moments(values: list[float]) -> Moments:
    a = np.asarray(values, dtype=float)
    column = Column("gmv")
    tail = {column: Tail(int(np.count_nonzero(a)), float(np.abs(a).max()))}
    return moments_of(
        [Cell("a", None, None, len(values), {column: float(a.sum())}, {(column, column): float(a @ a)}, tail)], {}
    )


def test_a_goal_without_variance_fails_and_another_metric_warns() -> None:
    flat, varied = moments([3.0] * 10), moments([1.0, 2.0])
    assert variance([GMV], flat, flat).status == "fail"
    assert variance([Mean(name="gmv", column="gmv")], flat, flat).status == "warn"
    assert variance([GMV], flat, varied).status == "ok"


def test_few_buyers_are_counted_in_the_smaller_arm() -> None:
    many, few = moments([1.0] * 100 + [0.0] * 900), moments([1.0] * 99 + [0.0] * 900)
    check = few_buyers([GMV], many, few)
    assert check is not None
    assert (check.status, check.value) == ("warn", 99)
    assert "GMV" in check.sentence
    check = few_buyers([GMV], many, many)
    assert check is not None
    assert check.status == "ok"


def test_for_a_share_the_units_above_zero_are_counted() -> None:
    column = Column("gmv", positive=True)
    arm = moments_of([Cell("a", None, None, 1000, {column: 7.0}, {(column, column): 7.0})], {})
    check = few_buyers([Proportion(name="buyers", column="gmv")], arm, arm)
    assert check is not None
    assert check.value == 7


def test_one_order_that_carries_the_variance_is_a_warning() -> None:
    rng = np.random.default_rng(0)
    usual = list(rng.normal(100, 10, 1000))
    for values, status in ((usual, "ok"), ([*usual, 5000.0], "warn")):
        check = heavy_tail([GMV], moments(usual), moments(values))
        assert check is not None
        assert check.status == status
    share = (5000 - np.mean([*usual, 5000])) ** 2 / (np.var([*usual, 5000]) * 1001)
    assert check.value == pytest.approx(share, rel=1e-9)


def test_a_covariate_that_differs_before_exposure_is_a_warning() -> None:
    metric = Mean(name="m", column="y", covariate="gmv")
    rng = np.random.default_rng(1)
    base = list(rng.normal(10, 1, 2000))
    for shift, status in ((0.0, "ok"), (1.0, "warn")):
        other = moments([value + shift for value in rng.normal(10, 1, 2000)])
        check = balance_before_exposure([metric], moments(base), other)
        assert check is not None
        assert check.status == status


def test_a_covariate_after_exposure_fails_and_one_that_is_the_metric_is_suspected() -> None:
    metric = Mean(name="gmv", label="GMV", column="gmv", covariate="pre")
    rng = np.random.default_rng(0)
    y, x = rng.normal(10, 1, (2, 500))
    apart = sample_moments(metric.needs, {"gmv": y, "pre": x})
    copied = sample_moments(metric.needs, {"gmv": y, "pre": 3 * y + 1e-3 * x})
    late = Facts("t", (), late_covariates=7)
    result = covariates_before_exposure(late, [metric], apart, apart)
    assert result is not None
    assert result.status == "fail"
    assert "7 units" in result.sentence
    warned = covariates_before_exposure(Facts("t", ()), [metric], copied, apart)
    assert warned is not None
    assert (warned.status, warned.sentence[:4]) == ("warn", "GMV:")
    fine = covariates_before_exposure(Facts("t", (), late_covariates=0), [metric], apart, apart)
    assert fine is not None
    assert (fine.status, fine.sentence) == ("ok", "All covariates end before first exposure.")
    assert covariates_before_exposure(late, [GMV], apart, apart) is None


def test_a_unit_with_a_sizeable_share_of_all_clicks_is_suspected_to_be_a_bot() -> None:
    metric = Count(name="clicks", column="clicks")
    people = np.full(2_000, 2.0)
    person = sample_moments(metric.needs, {"clicks": people})
    bot = sample_moments(metric.needs, {"clicks": np.r_[people, 400.0]})
    result = automated_traffic([metric], person, bot)
    assert result is not None
    assert result.status == "warn"
    fine = automated_traffic([metric], person, person)
    assert fine is not None
    assert fine.status == "ok"
    assert automated_traffic([GMV], person, bot) is None

"""Each check, at and around its threshold."""

from datetime import timedelta

import numpy as np
import pytest
from scipy import stats

from analysis.aggregates import Cell, Column, Moments, Tail, moments_of
from analysis.checks import (
    balance_before,
    few_nonzero,
    heavy_tail,
    immature_units,
    sample_ratio,
    several_arms,
    variation,
)
from analysis.metrics import Mean, Proportion
from analysis.sources.base import Facts

GMV = Mean(name="gmv", label="GMV", column="gmv", role="goal")


def moments(values: list[float]) -> Moments:
    a = np.asarray(values, dtype=float)
    column = Column("gmv")
    tail = {column: Tail(int(np.count_nonzero(a)), float(np.abs(a).max()))}
    return moments_of(
        [Cell("a", None, None, len(values), {column: float(a.sum())}, {(column, column): float(a @ a)}, tail)], {}
    )


def test_the_published_sample_ratio_mismatch_is_found() -> None:
    """821,588 : 815,482 against 1 : 1 has chi-square 22.7744 and p 1.82e-6."""
    check = sample_ratio({"a": 821_588, "b": 815_482}, {"a": 1, "b": 1})
    assert check.status == "fail"
    assert check.value == pytest.approx(1.82e-6, rel=2e-3)
    assert check.value == pytest.approx(stats.chisquare([821_588, 815_482]).pvalue, rel=1e-9)
    assert stats.chisquare([821_588, 815_482]).statistic == pytest.approx(22.7744, abs=1e-4)


def test_an_unequal_plan_is_judged_as_planned() -> None:
    counts = {"a": 9_020, "b": 980}
    assert sample_ratio(counts, {"a": 9, "b": 1}).status == "ok"
    assert sample_ratio(counts, {"a": 0.9, "b": 0.1}) == sample_ratio(counts, {"b": 0.1, "a": 0.9})
    assert sample_ratio(counts, {"a": 1, "b": 1}).status == "fail"


def test_three_arms_are_judged_together_as_scipy_does() -> None:
    check = sample_ratio({"a": 500, "b": 480, "c": 560}, {"a": 1, "b": 1, "c": 1})
    assert check.value == pytest.approx(stats.chisquare([500, 480, 560]).pvalue, rel=1e-9)


def test_an_arm_without_units_fails_and_so_does_one_that_nobody_planned() -> None:
    assert sample_ratio({"a": 100}, {"a": 1, "b": 1}).status == "fail"
    assert sample_ratio({"a": 100, "b": 0}, {"a": 1, "b": 1}).status == "fail"
    strange = sample_ratio({"a": 100, "b": 100, "c": 1}, {"a": 1, "b": 1})
    assert strange.status == "fail"
    assert "c" in strange.sentence


def test_too_few_units_for_the_test_is_a_warning_and_not_a_pass() -> None:
    assert sample_ratio({"a": 4, "b": 5}, {"a": 1, "b": 1}).status == "warn"
    assert sample_ratio({"a": 5, "b": 5}, {"a": 1, "b": 1}).status == "ok"


def test_units_in_several_arms_warn_above_one_percent() -> None:
    assert several_arms(1, 99).status == "ok"
    assert several_arms(2, 98).status == "warn"
    assert several_arms(0, 0).value == 0.0


def test_immature_units_warn_and_are_not_mentioned_without_a_window() -> None:
    facts = Facts(source="x", sql=(), immature=6, window=timedelta(days=14))
    check = immature_units(facts, 100)
    assert check is not None
    assert check.status == "warn"
    assert "6 of 100" in check.sentence
    assert "14 days" in check.sentence
    assert immature_units(Facts(source="x", sql=()), 100) is None


def test_a_goal_without_variance_fails_and_another_metric_warns() -> None:
    flat, varied = moments([3.0] * 10), moments([1.0, 2.0])
    assert variation([GMV], flat, flat).status == "fail"
    assert variation([Mean(name="gmv", column="gmv")], flat, flat).status == "warn"
    assert variation([GMV], flat, varied).status == "ok"


def test_few_buyers_are_counted_in_the_smaller_arm() -> None:
    many, few = moments([1.0] * 100 + [0.0] * 900), moments([1.0] * 99 + [0.0] * 900)
    check = few_nonzero([GMV], many, few)
    assert check is not None
    assert (check.status, check.value) == ("warn", 99)
    assert "GMV" in check.sentence
    check = few_nonzero([GMV], many, many)
    assert check is not None
    assert check.status == "ok"


def test_for_a_share_the_units_above_zero_are_counted() -> None:
    column = Column("gmv", positive=True)
    arm = moments_of([Cell("a", None, None, 1000, {column: 7.0}, {(column, column): 7.0})], {})
    check = few_nonzero([Proportion(name="buyers", column="gmv")], arm, arm)
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
        check = balance_before([metric], moments(base), other)
        assert check is not None
        assert check.status == status

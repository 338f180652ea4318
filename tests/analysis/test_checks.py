"""Each check, at and around its threshold."""

from datetime import date, timedelta

import numpy as np
import pytest
from scipy import stats

from analysis.aggregates import Aggregates, Cell, Column, Moments, Rule, Tail, moments_of
from analysis.arrays import sample_moments
from analysis.checks import (
    SRM_PRIOR,
    automated_traffic,
    balance_before,
    covariates_before_exposure,
    few_nonzero,
    heavy_tail,
    immature_units,
    impossible_values,
    late_data,
    log_bayes_factor,
    one_currency,
    refunds_after_window,
    sample_ratio,
    sample_ratio_by_segment,
    sample_ratio_over_time,
    several_arms,
    variation,
)
from analysis.currencies import Rates
from analysis.metrics import Count, Mean, Proportion, Ratio
from analysis.sources.base import Facts, Late, Refunds

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


def aggregates(
    cells: list[tuple[str, int | None, str | None, int]], broken: dict[Rule, int] | None = None
) -> Aggregates:
    return Aggregates(tuple(Cell(arm, day, segment, n, {}, {}, broken=broken or {}) for arm, day, segment, n in cells))


def test_a_mismatch_that_hides_in_a_segment_is_found_and_many_segments_do_not_cry_wolf() -> None:
    hidden = [("a", None, "de", 5_000), ("b", None, "de", 5_400), ("a", None, "fr", 5_400), ("b", None, "fr", 5_000)]
    split = {"a": 1.0, "b": 1.0}
    assert sample_ratio({"a": 10_400, "b": 10_400}, split).status == "ok"
    check = sample_ratio_by_segment(aggregates(hidden), split)
    assert check is not None
    assert check.status == "fail"
    assert "de, fr" in check.sentence
    p = stats.chisquare([5_000, 5_400]).pvalue
    assert check.value == pytest.approx(2 * p)  # Bonferroni
    only_one = [("a", None, "de", 300), ("b", None, "de", 310), ("a", None, "fr", 300), ("b", None, "fr", 0)]
    empty = sample_ratio_by_segment(aggregates(only_one), split)
    assert empty is not None
    assert empty.status == "fail"
    assert sample_ratio_by_segment(aggregates(hidden[:2]), split) is None


def test_the_bayes_factor_of_the_split_is_that_of_the_dirichlet_multinomial() -> None:
    counts, shares = {"a": 130, "b": 70}, {"a": 0.5, "b": 0.5}
    against = stats.betabinom.logpmf(130, 200, SRM_PRIOR / 2, SRM_PRIOR / 2) - stats.binom.logpmf(130, 200, 0.5)
    assert log_bayes_factor(counts, shares) == pytest.approx(against, rel=1e-9)


def test_the_split_over_time_remembers_a_bad_day_and_may_be_looked_at_daily() -> None:
    """A day that lost half of an arm, evened out later, passes the last look's chi-square and not this."""
    day = 86_400_000_000
    cells = [("a", 0, None, 2_000), ("b", 0, None, 1_500), ("a", day, None, 1_000), ("b", day, None, 1_480)]
    split = {"a": 1.0, "b": 1.0}
    assert sample_ratio({"a": 3_000, "b": 2_980}, split).status == "ok"
    check = sample_ratio_over_time(aggregates(cells), split)
    assert check is not None
    assert check.status == "fail"
    assert sample_ratio_over_time(aggregates(cells[::-1]), split) == check
    assert sample_ratio_over_time(aggregates(cells[:2]), split) is None
    rng, alarms = np.random.default_rng(3), 0
    for _ in range(300):
        a = rng.binomial(100, 0.5, 50)
        daily = [(arm, d, None, int(n)) for d in range(50) for arm, n in (("a", a[d]), ("b", 100 - a[d]))]
        found = sample_ratio_over_time(aggregates(daily), split)
        assert found is not None
        assert found.value is not None
        alarms += found.value < 0.05
    assert alarms <= 24  # at most 5 % of 300 paths, and four standard errors


def test_impossible_values_fail_and_are_named_with_their_number() -> None:
    ratio = Ratio(name="ctr", numerator="clicks", denominator="views")
    clicks, views = ratio.inputs
    cells = [("a", None, None, 100), ("b", None, None, 100)]
    check = impossible_values(aggregates(cells, {Rule(clicks, views): 2, Rule(clicks): 0}), [ratio])
    assert check is not None
    assert check.status == "fail"
    assert "clicks above views in 4 units" in check.sentence
    few = [("a", None, None, 3_000), ("b", None, None, 3_000)]
    warned = impossible_values(aggregates(few, {Rule(clicks, views): 2}), [ratio])
    assert warned is not None
    assert warned.status == "warn"
    sound = impossible_values(aggregates(cells), [ratio, Count(name="clicks", column="clicks")])
    assert sound is not None
    assert sound.status == "ok"
    assert impossible_values(aggregates(cells), [GMV]) is None


def test_a_covariate_after_exposure_fails_and_one_that_is_the_metric_is_suspected() -> None:
    metric = Mean(name="gmv", label="GMV", column="gmv", covariate="pre")
    rng = np.random.default_rng(0)
    y, x = rng.normal(10, 1, (2, 500))
    apart = sample_moments(metric.needs, {"gmv": y, "pre": x})
    copied = sample_moments(metric.needs, {"gmv": y, "pre": 3 * y + 1e-3 * x})
    late = Facts("t", (), late_covariates=7)
    found = covariates_before_exposure(late, [metric], apart, apart)
    assert found is not None
    assert found.status == "fail"
    assert "7 units" in found.sentence
    warned = covariates_before_exposure(Facts("t", ()), [metric], copied, apart)
    assert warned is not None
    assert (warned.status, warned.sentence[:4]) == ("warn", "GMV:")
    fine = covariates_before_exposure(Facts("t", (), late_covariates=0), [metric], apart, apart)
    assert fine is not None
    assert (fine.status, fine.sentence) == ("ok", "All covariates end before first exposure.")
    assert covariates_before_exposure(late, [GMV], apart, apart) is None


@pytest.mark.parametrize(("rows", "status"), [(10, "ok"), (11, "warn")])
def test_late_data_and_refunds_after_the_window_warn_above_their_share(rows: int, status: str) -> None:
    late = late_data(Facts("t", (), late=Late(rows, 1000, timedelta(days=1))))
    assert late is not None
    assert late.status == status
    assert late_data(Facts("t", ())) is None
    after = refunds_after_window(Facts("t", (), refunds=Refunds(counted=1000 - 5 * rows, after=5 * rows)))
    assert after is not None
    assert after.status == status
    assert refunds_after_window(Facts("t", (), refunds=Refunds(0, 0))) is None


def test_a_unit_with_a_sizeable_share_of_all_clicks_is_suspected_to_be_a_bot() -> None:
    metric = Count(name="clicks", column="clicks")
    people = np.full(2_000, 2.0)
    person = sample_moments(metric.needs, {"clicks": people})
    bot = sample_moments(metric.needs, {"clicks": np.r_[people, 400.0]})
    found = automated_traffic([metric], person, bot)
    assert found is not None
    assert found.status == "warn"
    fine = automated_traffic([metric], person, person)
    assert fine is not None
    assert fine.status == "ok"
    assert automated_traffic([GMV], person, bot) is None


def test_converted_amounts_are_stated_with_the_date_of_the_rates() -> None:
    check = one_currency(Facts("t", (), currency="EUR", rates=Rates("EUR", {"USD": 0.9}, date(2026, 6, 1))))
    assert check is not None
    assert "converted to EUR at the rates of 2026-06-01" in check.sentence

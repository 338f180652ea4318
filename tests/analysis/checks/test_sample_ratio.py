"""The split between the arms against the plan: by chi-square, by segment and over time."""

import numpy as np
import pytest
from scipy import stats

from analysis.aggregates import Aggregates, Cell, Rule
from analysis.checks.sample_ratio import (
    SRM_PRIOR,
    log_bayes_factor,
    sample_ratio,
    sample_ratio_by_segment,
    sample_ratio_over_time,
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
    """One day loses a part of an arm and later days make up for it: chi-square at the end passes, this check fails."""
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
        result = sample_ratio_over_time(aggregates(daily), split)
        assert result is not None
        assert result.value is not None
        alarms += result.value < 0.05
    assert alarms <= 24  # at most 5 % of 300 paths, and four standard errors

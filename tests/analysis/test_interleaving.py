"""The preference between two rankings equals other libraries, and is uncertain where there are few units."""

from math import sqrt

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from analysis.errors import ArgumentError, DataError
from analysis.interleaving import UnitWins, preference, unit_wins, units_needed

counts = st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5)).filter(any)


def wins_of(rows: list[tuple[int, int, int]]) -> list[UnitWins]:
    return [UnitWins(str(i), *row) for i, row in enumerate(rows)]


def test_wins_are_counted_by_unit_and_lists_without_a_choice_say_nothing() -> None:
    lists = [("u", 1, 0), ("u", 0, 2), ("u", 3, 1), ("u", 1, 1), ("u", 0, 0), ("v", 0, 0), ("w", 0, 1)]
    assert unit_wins(lists) == [UnitWins("u", 2, 1, 1), UnitWins("w", 0, 1, 0)]
    assert [each.score for each in unit_wins(lists)] == [-0.25, 1.0]


@given(st.lists(counts, min_size=3, max_size=30).filter(lambda rows: len({UnitWins("", *r).score for r in rows}) > 1))
def test_by_unit_it_is_the_one_sample_t_test_of_the_scores(rows: list[tuple[int, int, int]]) -> None:
    scores = np.array([each.score for each in wins_of(rows)])
    expected = stats.ttest_1samp(scores, 0.0)
    bounds = expected.confidence_interval(0.9)
    result = preference(wins_of(rows), alpha=0.1)
    assert result.score == pytest.approx(scores.mean(), abs=1e-12)
    assert result.p == pytest.approx(expected.pvalue, abs=1e-9)
    assert (result.low, result.high) == pytest.approx((max(-1, bounds.low), min(1, bounds.high)), abs=1e-9)
    assert result.share == pytest.approx((1 + scores.mean()) / 2)
    assert result.sign_p == pytest.approx(
        stats.binomtest(int((scores > 0).sum()), max(1, int((scores != 0).sum()))).pvalue if any(scores) else 1.0
    )


@given(st.lists(counts, min_size=3, max_size=30).filter(lambda rows: len({UnitWins("", *r).score for r in rows}) > 1))
def test_by_list_it_is_least_squares_with_errors_clustered_by_unit(rows: list[tuple[int, int, int]]) -> None:
    outcomes, groups = [], []
    for i, (a, b, ties) in enumerate(rows):
        outcomes += [-1.0] * a + [1.0] * b + [0.0] * ties
        groups += [i] * (a + b + ties)
    model = sm.OLS(np.array(outcomes), np.ones(len(outcomes)))
    fitted = model.fit(cov_type="cluster", cov_kwds={"groups": np.array(groups)})
    result = preference(wins_of(rows), weight="list")
    assert result.score == pytest.approx(fitted.params[0], abs=1e-9)
    assert result.standard_error == pytest.approx(fitted.bse[0], abs=1e-9)
    assert (result.units, result.lists) == (len(rows), len(outcomes))


@given(st.lists(counts, min_size=2, max_size=20), st.sampled_from(["unit", "list"]))
def test_exchanging_the_rankers_turns_the_sign(rows: list[tuple[int, int, int]], weight: str) -> None:
    result = preference(wins_of(rows), weight=weight, planned_units=100)  # type: ignore[arg-type]
    other = preference(wins_of([(b, a, ties) for a, b, ties in rows]), weight=weight, planned_units=100)  # type: ignore[arg-type]
    assert other.score == pytest.approx(-result.score, abs=1e-12)
    assert (other.low, other.high) == pytest.approx((-result.high, -result.low), abs=1e-9)
    assert (other.p, other.sign_p) == pytest.approx((result.p, result.sign_p), abs=1e-9)
    assert (other.a_units, other.b_units) == (result.b_units, result.a_units)
    assert -1 <= result.low <= result.score <= result.high <= 1


def drawn(rng: np.random.Generator, units: int, tilt: float) -> list[UnitWins]:
    """Units of different taste, which see many lists each: their lists agree with one another."""
    taste = np.clip(rng.beta(0.5, 0.5, units) + tilt, 0, 1)
    lists = rng.poisson(8, units) + 1
    won = rng.binomial(lists, taste)
    return [UnitWins(str(i), int(n - b), int(b)) for i, (n, b) in enumerate(zip(lists, won, strict=True))]


@pytest.mark.parametrize("weight", ["unit", "list"])
def test_without_a_preference_the_test_errs_as_often_as_it_says_and_counting_lists_far_more(weight: str) -> None:
    """2,000 comparisons: within four standard deviations of 5 %, where a binomial test of lists is wrong in 40 %."""
    rng = np.random.default_rng(11)
    result = [drawn(rng, 60, 0.0) for _ in range(2_000)]
    wrong = sum(preference(wins, weight=weight).p < 0.05 for wins in result)  # type: ignore[arg-type]
    assert abs(wrong / 2_000 - 0.05) < 4 * sqrt(0.05 * 0.95 / 2_000)
    naive = [stats.binomtest(sum(w.b for w in wins), sum(w.lists for w in wins)).pvalue for wins in result[:300]]
    assert np.mean(np.array(naive) < 0.05) > 0.3


def test_the_interval_covers_the_true_score_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    taste = np.clip(rng.beta(0.5, 0.5, 1_000_000) + 0.1, 0, 1)
    true = float(2 * taste.mean() - 1)
    result = [preference(drawn(rng, 80, 0.1)) for _ in range(2_000)]
    covered = np.mean([each.low <= true <= each.high for each in result])
    assert abs(covered - 0.95) < 4 * sqrt(0.05 * 0.95 / 2_000)


def test_looking_after_every_forty_units_errs_no_more_often_than_it_says() -> None:
    """The always-valid p-value keeps its level over all looks; the p-value of a single look does not."""
    rng = np.random.default_rng(3)
    anytime, single = 0, 0
    for _ in range(200):
        wins = drawn(rng, 400, 0.0)
        looks = [preference(wins[:n], planned_units=400) for n in range(40, 401, 40)]
        anytime += any(look.anytime is not None and look.anytime.p < 0.05 for look in looks)
        single += any(look.p < 0.05 for look in looks)
    assert anytime <= 20  # 10 expected at most; more than 20 with a chance below 0.2 %
    assert single > 25
    last = looks[-1]
    assert last.anytime is not None
    assert last.anytime.low < last.low < last.high < last.anytime.high
    assert last.anytime.planned_units == 400


@pytest.mark.parametrize("weight", ["unit", "list"])
def test_units_that_all_say_the_same_leave_the_doubt_that_their_number_leaves(weight: str) -> None:
    """A variance of 0 is no certainty: three units that all prefer `b` are like three equal coin tosses."""
    few = preference([UnitWins(str(i), 0, 2) for i in range(3)], weight=weight)  # type: ignore[arg-type]
    assert (few.score, few.standard_error, few.p, few.high) == (1.0, 0.0, 0.25, 1.0)
    assert few.low < 0
    many = preference([UnitWins(str(i), 0, 2) for i in range(300)], weight=weight)  # type: ignore[arg-type]
    assert many.low == pytest.approx(1 - 2 * (1 - 0.05 ** (1 / 300)))
    assert many.p < 1e-80
    undecided = preference([UnitWins(str(i), 1, 1) for i in range(300)], weight=weight)  # type: ignore[arg-type]
    assert (undecided.score, undecided.p) == (0.0, 1.0)
    assert undecided.low == -undecided.high < 0


def test_the_units_that_are_needed_give_the_power_that_is_asked() -> None:
    rng = np.random.default_rng(8)
    scores = np.array([each.score for each in drawn(rng, 100_000, 0.05)])
    needed = units_needed(float(scores.mean()), float(scores.std()), power=0.9)
    mean = np.mean([preference(drawn(rng, needed, 0.05)).p < 0.05 for _ in range(400)])
    assert abs(mean - 0.9) < 4 * sqrt(0.9 * 0.1 / 400) + 0.01
    assert units_needed(-0.1, 0.5) == units_needed(0.1, 0.5)


def test_bad_input_is_named() -> None:
    with pytest.raises(DataError, match=r"1 unit\(s\) chose something"):
        preference([UnitWins("u", 1, 0)])
    with pytest.raises(DataError, match="'u' occurs twice"):
        preference([UnitWins("u", 1, 0), UnitWins("u", 0, 1)])
    with pytest.raises(DataError, match="'v' has no list"):
        preference([UnitWins("u", 1, 0), UnitWins("v", 0, 0)])
    with pytest.raises(DataError, match="credits -1 and 2"):
        unit_wins([("u", -1, 2)])
    with pytest.raises(ArgumentError, match="alpha is 1"):
        preference([UnitWins("u", 1, 0), UnitWins("v", 0, 1)], alpha=1)
    with pytest.raises(ArgumentError, match="weight is 'click'"):
        preference([UnitWins("u", 1, 0), UnitWins("v", 0, 1)], weight="click")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="score is 0"):
        units_needed(0.0, 0.5)

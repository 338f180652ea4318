"""Confidence sequences and group-sequential boundaries: published tables, error rates, and what must always hold."""

from math import inf, log, sqrt
from time import process_time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from analysis.errors import ArgumentError
from analysis.inference import ArmEstimate, Effect, effect_of
from analysis.sequential import (
    Spending,
    SpendingDesign,
    anytime_critical,
    anytime_p,
    crossing,
    hwang_shih_decani_spending,
    inflation,
    monitor,
    obrien_fleming,
    obrien_fleming_spending,
    pocock,
    pocock_spending,
    power_spending,
    repeated_interval,
    wang_tsiatis,
)

Array = NDArray[np.float64]


def evenly(looks: int) -> list[float]:
    return [(k + 1) / looks for k in range(looks)]


def an_effect(n: int = 1000, lift: float = 0.1, variance: float = 0.001, control: float = 1.0) -> Effect:
    arms = [ArmEstimate(n, v, v, variance, variance, variance) for v in (control, control * (1 + lift))]
    result = effect_of(*arms)
    assert isinstance(result, Effect)
    return result


# --- group-sequential boundaries


@pytest.mark.parametrize(
    ("looks", "pocock_value", "obrien_fleming_last"),
    [(2, 2.1783, 1.9774), (3, 2.2895, 2.0040), (4, 2.3613, 2.0243), (5, 2.4132, 2.0401)],
)
def test_the_classical_boundaries_are_those_of_the_tables(
    looks: int, pocock_value: float, obrien_fleming_last: float
) -> None:
    assert pocock(looks) == pytest.approx([pocock_value] * looks, abs=1e-4)
    first, *_, last = obrien_fleming(looks)
    assert last == pytest.approx(obrien_fleming_last, abs=1e-4)
    assert first == pytest.approx(last * sqrt(looks), rel=1e-12)


@pytest.mark.parametrize(
    ("spending", "table"),
    [
        (obrien_fleming_spending, [4.8769, 3.3569, 2.6803, 2.2898, 2.0310]),
        (pocock_spending, [2.4380, 2.4268, 2.4101, 2.3966, 2.3859]),
    ],
)
def test_the_spending_boundaries_are_those_of_the_tables(spending: Spending, table: list[float]) -> None:
    """Two-sided 0.05, five equal looks, as in the programs of Reboussin, DeMets, Kim and Lan (2000)."""
    looks = SpendingDesign(1.0, spending=spending).looks(evenly(5))
    assert [look.critical for look in looks] == pytest.approx(table, abs=1.5e-4)


def test_the_inflation_of_the_sample_size_is_that_of_the_tables() -> None:
    """Jennison and Turnbull 2000, tables 2.2 and 2.4: five looks, two-sided 0.05."""
    assert inflation(pocock(5), evenly(5), power=0.8) == pytest.approx(1.228, abs=6e-4)
    assert inflation(pocock(5), evenly(5), power=0.9) == pytest.approx(1.206, abs=6e-4)
    assert inflation(obrien_fleming(5), evenly(5), power=0.8) == pytest.approx(1.028, abs=6e-4)


@pytest.mark.parametrize("share", [0.37, 0.02, 0.995])
def test_two_looks_are_a_bivariate_normal_integral(share: float) -> None:
    """An independent computation: Z_1 and Z_2 have the correlation sqrt(I_1 / I_2)."""
    a, b = 2.3, 2.0
    joint = stats.multivariate_normal([0, 0], [[1, sqrt(share)], [sqrt(share), 1]])
    both_inside = sum(s * t * joint.cdf([s * a, t * b]) for s in (1, -1) for t in (1, -1))
    assert 1 - sum(crossing([a, b], [share, 1.0])) == pytest.approx(both_inside, abs=1e-8)


@pytest.mark.parametrize("effect", [0.0, 3.0, -12.0])
def test_looks_that_cannot_reject_change_nothing(effect: float) -> None:
    information = [0.1, 0.5, 0.502, 1.0]
    *none, found = crossing([inf, inf, inf, 2.0], information, effect)
    assert none == [0.0, 0.0, 0.0]
    assert found == pytest.approx(stats.norm.sf(2 - effect) + stats.norm.cdf(-2 - effect), rel=1e-9)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.floats(0.02, 1.0), min_size=1, max_size=8),
    st.sampled_from([obrien_fleming_spending, pocock_spending, power_spending(2.0), hwang_shih_decani_spending(-4.0)]),
    st.sampled_from([0.01, 0.05, 0.2]),
)
def test_a_design_spends_exactly_its_alpha_whatever_the_information_observed(
    steps: list[float], spending: Spending, alpha: float
) -> None:
    information = list(np.cumsum(steps))
    looks = SpendingDesign(information[-1], alpha, spending).looks(information)
    cumulative = np.cumsum(crossing([look.critical for look in looks], information))
    assert list(cumulative) == pytest.approx([look.spent for look in looks], abs=1e-8)
    assert looks[-1].spent == pytest.approx(alpha, rel=1e-12)


def test_the_boundary_of_a_look_does_not_depend_on_the_looks_after_it() -> None:
    design = SpendingDesign(100.0)
    whole = design.looks([20, 45, 80, 100])
    assert [look.critical for look in design.looks([20, 45])] == pytest.approx([look.critical for look in whole[:2]])


def test_the_alpha_spent_is_not_the_level_of_the_look() -> None:
    """Testing each of 14 looks at the alpha spent so far errs well above 5 %; the boundary solved for does not."""
    shares = evenly(14)
    looks = SpendingDesign(1.0).looks(shares)
    naive = [float(stats.norm.isf(max(look.spent, 1e-300) / 2)) for look in looks]
    assert sum(crossing(naive, shares)) > 0.065
    assert sum(crossing([look.critical for look in looks], shares)) == pytest.approx(0.05, abs=1e-8)
    assert all(look.nominal < look.spent for look in looks[2:])


def test_looking_every_day_at_the_plain_level_calls_a_quarter_of_experiments_without_effect_a_success() -> None:
    assert sum(crossing([1.959964] * 28, evenly(28))) == pytest.approx(0.27, abs=0.01)


def test_the_error_and_the_power_are_those_of_a_simulation() -> None:
    rng = np.random.default_rng(1)
    shares = np.array([0.2, 0.5, 0.6, 1.0])
    critical = np.array([look.critical for look in SpendingDesign(1.0).looks(list(shares))])
    noise = rng.normal(size=(200_000, 4)) * np.sqrt(np.diff(shares, prepend=0))
    for effect in (0.0, 2.8):
        z = (np.cumsum(noise, axis=1) + effect * shares) / np.sqrt(shares)
        expected = sum(crossing(list(critical), list(shares), effect))
        assert (np.abs(z) >= critical).any(axis=1).mean() == pytest.approx(expected, abs=4 * 0.0012)


def test_a_design_that_ends_early_or_overruns_still_spends_its_alpha_and_no_more() -> None:
    design = SpendingDesign(100.0)
    early = design.looks([30, 80], last=True)
    assert early[-1].spent == 0.05
    assert sum(crossing([look.critical for look in early], [30, 80])) == pytest.approx(0.05, abs=1e-8)
    over = design.looks([50, 120, 130])
    assert over[1].spent == pytest.approx(0.05)
    assert over[2].critical == inf
    assert over[2].nominal == 0.0


def test_a_single_look_is_the_fixed_test() -> None:
    z = stats.norm.isf(0.025)
    assert pocock(1) == obrien_fleming(1) == pytest.approx((z,))
    (look,) = SpendingDesign(7.0).looks([7.0])
    assert look.critical == pytest.approx(z, abs=1e-8)


def test_the_family_of_wang_and_tsiatis_lies_between_its_two_ends() -> None:
    last = [wang_tsiatis(5, delta)[-1] for delta in (0.0, 0.25, 0.5)]
    assert last == sorted(last)
    assert wang_tsiatis(4, 0.25)[-1] == pytest.approx(2.113, abs=6e-4)  # Jennison and Turnbull 2000, table 2.9
    assert last[1] == pytest.approx(2.136, abs=6e-4)


def test_the_spending_families_agree_where_they_meet() -> None:
    assert hwang_shih_decani_spending(0.0)(0.3, 0.05) == power_spending(1.0)(0.3, 0.05) == pytest.approx(0.015)
    for spending in (obrien_fleming_spending, pocock_spending, power_spending(3), hwang_shih_decani_spending(1.0)):
        values = [spending(t, 0.05) for t in (0.0, 0.3, 0.7, 1.0)]
        assert values == sorted(values)
        assert values[0] == 0
        assert values[-1] == pytest.approx(0.05, rel=1e-12)


def test_twenty_eight_looks_take_at_most_fifty_milliseconds() -> None:
    """Processor time, the best of five."""
    shares = evenly(28)
    for bounds in (lambda: SpendingDesign(1.0).looks(shares), lambda: pocock(28), lambda: obrien_fleming(28)):
        times = []
        for _ in range(5):
            start = process_time()
            bounds()
            times.append(process_time() - start)
        assert min(times) < 0.05


def test_looks_that_make_no_sense_are_refused() -> None:
    design = SpendingDesign(10.0)
    with pytest.raises(ArgumentError, match="no looks"):
        design.looks([])
    with pytest.raises(ArgumentError, match="look 2 is 4 after 5"):
        design.looks([5, 4])
    with pytest.raises(ArgumentError, match="look 1 is nan"):
        design.looks([float("nan")])
    with pytest.raises(ArgumentError, match="max_information is 0"):
        SpendingDesign(0)
    with pytest.raises(ArgumentError, match="alpha is 1"):
        SpendingDesign(1, alpha=1)
    with pytest.raises(ArgumentError, match="1 critical values for 2 looks"):
        crossing([2.0], [1, 2])
    with pytest.raises(ArgumentError, match=r"Critical value 1 is -1\.0"):
        crossing([-1.0], [1])
    with pytest.raises(ArgumentError, match="looks is 0"):
        pocock(0)


# --- confidence sequences


def test_the_critical_value_is_the_formula_of_the_paper() -> None:
    """Waudby-Smith et al. 2024, eq. (9): sqrt(2 (t rho^2 + 1) / (t^2 rho^2) log(sqrt(t rho^2 + 1) / alpha)) sigma."""
    t, n_star, alpha = 700.0, 2000.0, 0.05
    best = min(np.linspace(1e-4, 0.2, 20_000), key=lambda rho: _width(n_star, rho, alpha))
    assert anytime_critical(n_star, n_star, alpha) / sqrt(n_star) == pytest.approx(
        _width(n_star, best, alpha), rel=1e-8
    )
    assert anytime_critical(t, n_star, alpha) / sqrt(t) == pytest.approx(_width(t, best, alpha), rel=1e-4)


def _width(t: float, rho: float, alpha: float) -> float:
    x = t * rho**2
    return sqrt(2 * (x + 1) / (t * x) * log(sqrt(x + 1) / alpha))


@settings(max_examples=200, deadline=None)
@given(st.floats(1, 1e9), st.floats(1, 1e9), st.floats(-30, 30), st.sampled_from([0.01, 0.05, 0.1]))
def test_p_is_below_alpha_exactly_where_the_sequence_excludes_zero(
    n: float, n_star: float, z: float, alpha: float
) -> None:
    critical = anytime_critical(n, n_star, alpha)
    if abs(abs(z) - critical) > 1e-9 * critical:
        assert (anytime_p(z, n, n_star, alpha) < alpha) == (abs(z) > critical)


def test_at_most_one_in_twenty_experiments_without_effect_is_ever_rejected_over_a_hundred_looks() -> None:
    """GMV with 3 % buyers and lognormal values; a look whenever 500 users have joined each arm."""
    rng = np.random.default_rng(2)
    paths, looks, users = 4000, 100, 500
    z = _paths_of_z(rng, paths, looks, users)
    critical = np.array([anytime_critical(2 * users * k, looks * users) for k in range(1, looks + 1)])
    ever = (np.abs(z) > critical).any(axis=1).mean()
    assert ever <= 0.05
    assert ever > 0.002  # and the sequence is not so wide that it can never reject
    assert (np.abs(z) > 1.96).any(axis=1).mean() > 0.25  # whereas the plain test often does


def _paths_of_z(rng: np.random.Generator, paths: int, looks: int, users: int) -> Array:
    """Welch's statistic at each look of many A/A tests, from running sums; shape (paths, looks)."""
    means, variances = [], []
    n = users * np.arange(1, looks + 1)
    for _ in range(2):
        buyers = rng.binomial(users, 0.03, size=(paths, looks))
        values = rng.lognormal(3.5, 1.0, size=int(buyers.sum()))
        starts = np.r_[0, np.cumsum(buyers.ravel())]
        totals = [np.r_[0, np.cumsum(v)] for v in (values, values**2)]
        sums, squares = (np.diff(total[starts]).reshape(paths, looks).cumsum(axis=1) for total in totals)
        means.append(sums / n)
        variances.append((squares / n - (sums / n) ** 2) / (n - 1))
    difference: Array = (means[1] - means[0]) / np.sqrt(variances[0] + variances[1])
    return difference


def test_the_monitor_agrees_with_itself() -> None:
    for lift in (0.0, 0.05, 0.1, 0.2, 0.4):
        effect = an_effect(lift=lift)
        seen = monitor(effect, n_star=2000)
        assert seen.lift is not None
        assert seen.rejects == (seen.p < 0.05) == (not seen.lift.contains(0.0))
        assert seen.low < effect.difference.low < effect.difference.high < seen.high
        assert seen.lift.low < lift < seen.lift.high


def test_the_monitor_is_sharpest_for_the_size_it_was_planned_for() -> None:
    effect = an_effect(n=1000)
    widths = [monitor(effect, n_star).critical for n_star in (200, 2000, 20_000)]
    assert min(widths) == widths[1]


def test_a_repeated_interval_rejects_where_the_statistic_crosses() -> None:
    effect = an_effect(lift=0.1)
    z = effect.difference.value / effect.difference.standard_error
    assert repeated_interval(effect, 0.999 * z).rejects
    assert not repeated_interval(effect, 1.001 * z).rejects


def test_a_monitor_of_a_control_that_is_not_positive_has_no_lift() -> None:
    assert monitor(an_effect(control=-1.0), 2000).lift is None


def test_a_size_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ArgumentError, match="n_star is 0"):
        monitor(an_effect(), 0)
    with pytest.raises(ArgumentError, match="n is -3"):
        anytime_p(1.0, -3, 10)
    with pytest.raises(ArgumentError, match=r"alpha is 1\.0"):
        anytime_critical(10, 10, 1.0)

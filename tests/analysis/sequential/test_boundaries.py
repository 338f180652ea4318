"""Group-sequential boundaries: published tables, error rates, and what must always hold."""

from math import inf, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analysis.errors import ArgumentError
from analysis.sequential import (
    Spending,
    SpendingDesign,
    crossing,
    hwang_shih_decani_spending,
    inflation,
    obrien_fleming,
    obrien_fleming_spending,
    pocock,
    pocock_spending,
    power_spending,
    wang_tsiatis,
)


def evenly(looks: int) -> list[float]:
    return [(k + 1) / looks for k in range(looks)]


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


def test_twenty_eight_looks_spend_exactly_their_alpha_in_every_family() -> None:
    shares = evenly(28)
    for critical in ([look.critical for look in SpendingDesign(1.0).looks(shares)], pocock(28), obrien_fleming(28)):
        assert sum(crossing(critical, shares)) == pytest.approx(0.05, abs=1e-8)


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

"""Corrections for many tests: statsmodels' numbers, the published decisions, and what must always hold."""

from itertools import pairwise
from typing import get_args

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from analysis.errors import ArgumentError
from analysis.metrics import Role
from analysis.multiple_testing import Correction, adjust, adjust_reports, benjamini_hochberg, holm
from analysis.report import analyze
from analysis.results import MetricResult, SegmentResult
from analysis.sources import UserTable
from tests.analysis.reports import GMV, users

# Benjamini and Hochberg 1995, section 3.2
BH_1995 = [
    *(0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459),
    *(0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0),
]
STATSMODELS = {
    "bonferroni": "bonferroni",
    "sidak": "sidak",
    "holm": "holm",
    "hochberg": "simes-hochberg",
    "hommel": "hommel",
    "benjamini-hochberg": "fdr_bh",
    "benjamini-yekutieli": "fdr_by",
}


def rejected(p: list[float | None], alpha: float = 0.05) -> int:
    return sum(value is not None and value <= alpha for value in p)


def test_the_fifteen_p_values_of_1995() -> None:
    """Benjamini-Hochberg rejects 4, Holm and Bonferroni 3, as published."""
    assert rejected(benjamini_hochberg(BH_1995)) == 4
    assert rejected(holm(BH_1995)) == 3
    assert rejected(adjust(BH_1995, "bonferroni")) == 3


@pytest.mark.filterwarnings("ignore:divide by zero")  # statsmodels' own Sidak at p = 1
@pytest.mark.parametrize("ours", STATSMODELS)
@pytest.mark.parametrize("seed", range(5))
def test_the_adjusted_p_values_are_statsmodels(ours: Correction, seed: int) -> None:
    rng = np.random.default_rng(seed)
    p = BH_1995 if seed == 0 else list(rng.random(rng.integers(1, 40)) ** 3)
    expected = multipletests(p, method=STATSMODELS[ours])[1]
    assert adjust(p, ours) == pytest.approx(list(expected), rel=1e-9, abs=1e-15)


def test_every_correction_has_a_test_against_statsmodels() -> None:
    assert set(get_args(Correction)) == {*STATSMODELS, "none"}


p_values = st.lists(st.floats(0, 1) | st.none(), max_size=12)


@settings(max_examples=200, deadline=None)
@given(p_values, st.sampled_from(get_args(Correction)), st.randoms(use_true_random=False))
def test_the_order_of_the_tests_changes_nothing(p: list[float | None], name: Correction, random: object) -> None:
    order = list(range(len(p)))
    random.shuffle(order)  # type: ignore[attr-defined]
    shuffled = adjust([p[i] for i in order], name)
    plain = adjust(p, name)
    assert shuffled == [plain[i] for i in order]


@settings(max_examples=200, deadline=None)
@given(p_values, st.sampled_from(get_args(Correction)))
def test_adjusting_never_makes_p_smaller_and_leaves_out_what_was_not_tested(
    p: list[float | None], name: Correction
) -> None:
    adjusted = adjust(p, name)
    assert [value is None for value in adjusted] == [value is None for value in p]
    assert all(a >= b * (1 - 1e-12) for a, b in zip(adjusted, p, strict=True) if a is not None and b is not None)
    assert [v for v in adjusted if v is not None] == adjust([v for v in p if v is not None], name)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_each_refinement_is_at_least_as_powerful_as_what_it_refines(p: list[float]) -> None:
    ladder = ["bonferroni", "holm", "hochberg", "hommel", "benjamini-hochberg"]
    values = [np.array(adjust(p, name), dtype=float) for name in ladder]  # type: ignore[arg-type]
    for weaker, stronger in pairwise(values):
        assert (stronger <= weaker + 1e-12).all()


def test_what_is_no_p_value_is_refused() -> None:
    with pytest.raises(ArgumentError, match="p-value 2 is nan"):
        holm([0.1, float("nan")])
    with pytest.raises(ArgumentError, match=r"p-value 1 is 1\.2, and must be .* at most 1"):
        holm([1.2])
    with pytest.raises(ArgumentError, match="no correction 'fdr'"):
        adjust([0.1], "fdr")  # type: ignore[arg-type]


def result(base: MetricResult, role: Role, p: float | None, *segments: float | None) -> MetricResult:
    parts = [
        SegmentResult(segment="s", n_control=1, n_treatment=1, lift=None, low=None, high=None, p=one, p_adjusted=None)
        for one in segments
    ]
    return msgspec.structs.replace(base, role=role, p=p, p_adjusted=None, segments=parts)


def test_goals_secondary_metrics_and_segments_of_all_reports_are_three_families_of_tests() -> None:
    """Holm over the goals, Benjamini-Hochberg over the others; a guardrail is not adjusted."""
    base = analyze(UserTable(users()), [GMV], "a", "b").metrics[0]
    reports = [
        [result(base, "goal", 0.01, 0.2, 0.001), result(base, "guardrail", 0.03), result(base, "secondary", 0.04)],
        [result(base, "goal", 0.02, None), result(base, "guardrail", 0.05, 0.5), result(base, "secondary", None)],
    ]
    adjusted = adjust_reports(reports)
    p = [[metric.p_adjusted for metric in metrics] for metrics in adjusted]
    goals, segments = holm([0.01, 0.02]), benjamini_hochberg([0.2, 0.001, None, 0.5])
    assert p == [[goals[0], None, 0.04], [goals[1], None, None]]
    assert [part.p_adjusted for metrics in adjusted for metric in metrics for part in metric.segments] == segments

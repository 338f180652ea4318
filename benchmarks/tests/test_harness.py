"""Rows hold medians, the ratio of paired runs, and whether the goal is met."""

from __future__ import annotations

import pytest

from benchmarks.harness import Row, compared, figure, in_turn, result


def test_candidates_run_alternately_and_warm_up_does_not_count() -> None:
    calls: list[str] = []
    ticks = iter(range(100))
    seconds = in_turn(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, runs=2, warmup=1, clock=lambda: next(ticks)
    )
    assert calls == ["a", "b"] * 3
    assert seconds == {"a": [1, 1], "b": [1, 1]}


@pytest.mark.parametrize(("at_most", "met"), [(2.0, True), (1.9, False)])
def test_a_comparison_takes_the_median_of_the_ratios(at_most: float, met: bool) -> None:
    row = compared("time", "s", [2.0, 3.0, 8.0], "floor", [2.0, 1.5, 2.0], at_most=at_most)
    assert (row.value, row.against_value, row.ratio) == (3.0, 2.0, 2.0)
    assert row.spread == (1.0, 4.0)
    assert row.met is met


@pytest.mark.parametrize(("at_least", "met"), [(0.5, True), (0.6, False)])
def test_a_figure_compares_its_median_with_the_goal(at_least: float, met: bool) -> None:
    row = figure("recall", "", [0.4, 0.5, 0.9], at_least=at_least)
    assert (row.value, row.goal, row.met) == (0.5, f">= {at_least:g}", met)


def test_a_result_is_met_unless_a_row_misses_its_goal() -> None:
    without_goal = Row(name="a", value=1.0, unit="s")
    missed = Row(name="b", value=1.0, unit="s", goal="<= 0", met=False)
    assert result("x", [without_goal]).met
    assert not result("x", [without_goal, missed]).met

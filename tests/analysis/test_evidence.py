"""Only the interval that may decide enters the verdict, and it is worded with its reasons."""

import numpy as np
import pandas as pd
import pytest

from analysis.errors import ArgumentError
from analysis.metrics import Mean
from analysis.report import analyze
from analysis.sources import UserTable
from tests.analysis.reports import GMV, with_days


def test_until_the_planned_size_only_the_confidence_sequence_decides() -> None:
    data = with_days(lift=0.25)
    once = analyze(UserTable(data, day="day"), [GMV], "a", "b")
    assert once.verdict.conclusion == "ship"
    peeking = analyze(UserTable(data, day="day"), [GMV], "a", "b", planned_units=40_000)
    anytime = peeking.metric("gmv").anytime
    assert anytime is not None
    assert anytime.p > once.metric("gmv").p  # type: ignore[operator]
    assert anytime.low is not None
    assert (anytime.low > 0) == (anytime.p < 0.05) == (peeking.verdict.conclusion == "ship")
    assert "confidence sequence" in peeking.verdict.reasons[0]
    assert [point.anytime is not None for point in peeking.metric("gmv").cumulative] == [True] * 10
    done = analyze(UserTable(data, day="day"), [GMV], "a", "b", planned_units=4_000)
    assert done.verdict.conclusion == "ship"
    with pytest.raises(ArgumentError, match="planned_units is 0"):
        analyze(UserTable(data), [GMV], "a", "b", planned_units=0)


def test_the_sequences_of_several_goals_are_corrected_for_their_number() -> None:
    """Each goal alone would ship on its confidence sequence; as one of three it needs a smaller p (Bonferroni)."""
    rng = np.random.default_rng(8)
    data = pd.DataFrame({"variant": ["a", "b"] * 2000, "x": rng.normal(10, 1, 4000)})
    data.loc[data.variant == "b", "x"] += 0.09
    data["y"], data["z"] = rng.normal(10, 1, 4000), rng.normal(10, 1, 4000)
    goals = [Mean(name=name, column=name, role="goal") for name in ("x", "y", "z")]
    alone = analyze(UserTable(data), goals[:1], "a", "b", planned_units=5000)
    three = analyze(UserTable(data), goals, "a", "b", planned_units=5000)
    p = alone.metric("x").anytime
    assert p is not None
    assert p == three.metric("x").anytime
    assert 0.05 / 3 < p.p < 0.05
    assert (alone.verdict.conclusion, three.verdict.conclusion) == ("ship", "keep running")


def test_an_undecided_goal_says_about_how_many_days_it_still_takes() -> None:
    report = analyze(UserTable(with_days(), day="day"), [GMV], "a", "b", precision=0.04)
    result = report.metric("gmv")
    assert report.verdict.conclusion == "keep running"
    assert result.remaining is not None
    assert result.high is not None
    assert result.low is not None
    needed = 4000 * ((result.high - result.low) / 2 / 0.04) ** 2
    assert result.remaining.units == pytest.approx(needed - 4000, rel=1e-3)
    assert result.remaining.days is not None
    assert f"about {result.remaining.days:,} more days for ±4 %" in report.verdict.reasons[0]
    assert analyze(UserTable(with_days()), [GMV], "a", "b").metric("gmv").remaining is None  # nothing tells the rate
    far = analyze(UserTable(with_days(), day="day"), [GMV], "a", "b", precision=0.001)
    assert "more days" not in far.verdict.reasons[0]  # years ahead: no number

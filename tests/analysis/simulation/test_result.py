"""The summaries of a simulation are found by metric and lift."""

from typing import Any

import pytest

from analysis.simulation.result import DOUBTFUL_P, Simulation, TrialSummary

UNKNOWN = dict.fromkeys(
    "rejected rejected_ci rejected_below rejected_above covered covered_ci bias error half_width".split()
)


def trial(metric: str = "gmv", lift: float = 0.0, p_rate: float | None = None) -> TrialSummary:
    fields: dict[str, Any] = {**UNKNOWN, "runs": 10, "unbounded": 0, "undefined": 0}
    return TrialSummary(metric=metric, lift=lift, p_rate=p_rate, **fields)


def test_a_summary_is_found_by_metric_and_lift() -> None:
    outcomes = [trial(), trial(lift=0.1), trial("clicks")]
    simulation = Simulation(
        source="x", units=10, runs=10, share=0.5, alpha=0.05, seed=0, interval="log", outcomes=outcomes, p_values={}
    )
    assert simulation.outcome("gmv") is outcomes[0]
    assert simulation.outcome("gmv", 0.1) is outcomes[1]
    with pytest.raises(LookupError, match=r"'clicks' was not simulated with a lift of 0\.1"):
        simulation.outcome("clicks", 0.1)


def test_false_positives_are_doubtful_when_chance_hardly_explains_them() -> None:
    assert trial(p_rate=DOUBTFUL_P / 2).doubtful
    assert not trial(p_rate=DOUBTFUL_P).doubtful
    assert not trial(lift=0.1).doubtful

"""From metrics and checks to one of four conclusions, with the reasons."""

from collections.abc import Sequence
from typing import Literal

import msgspec

from analysis.checks.check import Check
from analysis.metrics import Direction, Role

Conclusion = Literal["ship", "do not ship", "keep running", "cannot trust"]


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What a report concludes.

    Attributes:
        conclusion: What to do.
        reasons: Why, one sentence each.
    """

    conclusion: Conclusion
    reasons: list[str]


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What a verdict needs to know about one metric.

    Attributes:
        label: The metric's name that people read.
        role: Role of the metric.
        direction: The direction that is good.
        difference: Treatment minus control.
        p: p-value, adjusted for goals; None if there is no effect to test.
        estimate: The lift with its interval, as text.
        outlook: How long it would take to know more, as text; empty if unknown.
        margin: Margin of a guardrail; None if it has none.
        holds: Whether a loss as large as the margin is ruled out; None without a margin.
        crossed: At a look of a group-sequential design, whether the boundary is crossed. It replaces p < alpha.
    """

    label: str
    role: Role
    direction: Direction
    difference: float | None
    p: float | None
    estimate: str
    outlook: str = ""
    margin: float | None = None
    holds: bool | None = None
    crossed: bool | None = None


def reach_verdict(metrics: Sequence[Evidence], checks: Sequence[Check], alpha: float = 0.05) -> Verdict:
    """Apply the rule, in this order.

    1. A check failed: cannot trust.
    2. A goal is significantly worse, or a guardrail vetoes (`vetoes`): do not ship.
    3. At least one goal is significantly better, and every guardrail with a margin is shown to hold: ship.
    4. Otherwise: keep running.

    Goals are tested with p-values adjusted for their number (Holm) or, at a look of a design, by their boundaries, each
    with its part of alpha (Bonferroni). Each guardrail is tested on its own, which is the cautious way.

    Without goals, the verdict is about the guardrails only. It is then ship if a guardrail has a margin, and every
    guardrail with a margin is shown to hold.

    Args:
        metrics: Evidence of each metric.
        checks: Checks of the report.
        alpha: Level of the tests.
    """
    failed = [check.sentence for check in checks if check.status == "fail"]
    if failed:
        return Verdict(conclusion="cannot trust", reasons=failed)
    goals = [m for m in metrics if m.role == "goal"]
    guardrails = [m for m in metrics if m.role == "guardrail"]
    warnings = _warnings(checks)
    worse = [m for m in goals if _sign(m, alpha) < 0]
    worse += [m for m in guardrails if vetoes(worse=_sign(m, alpha) < 0, ruled_out=m.holds)]
    if worse:
        reasons = [f"{m.label} ({m.role}) is worse: {m.estimate}." for m in worse]
        return Verdict(conclusion="do not ship", reasons=reasons + warnings)
    better = [m for m in goals if _sign(m, alpha) > 0]
    not_shown = [m for m in guardrails if m.holds is False]
    reasons = [] if goals else ["No metric is a goal, so the verdict is about the guardrails only."]
    reasons += [f"{m.label} is better: {m.estimate}." for m in better]
    reasons += [_undecided(m) for m in goals if m not in better]
    shown = better if goals else [m for m in guardrails if m.holds]
    if shown and not not_shown:
        return Verdict(conclusion="ship", reasons=reasons + _held(guardrails) + warnings)
    reasons += [
        f"{m.label} (guardrail) is not yet shown to lose less than {(m.margin or 0) * 100:g} %: {m.estimate}."
        for m in not_shown
    ]
    return Verdict(conclusion="keep running", reasons=reasons + _held(guardrails) + warnings)


def vetoes(*, worse: bool, ruled_out: bool | None) -> bool:
    """Return whether a guardrail vetoes the treatment: the one rule of reports and of running experiments.

    A guardrail without a margin vetoes if it is significantly worse. A guardrail with a margin then vetoes only if a
    loss beyond the margin is not ruled out.

    Args:
        worse: The metric is significantly worse.
        ruled_out: A loss as large as the margin is ruled out; None without a margin.
    """
    return worse and not ruled_out


def _warnings(checks: Sequence[Check]) -> list[str]:
    names = [check.name.replace("_", " ") for check in checks if check.status == "warn"]
    return [f"Read with care: {', '.join(names)}."] if names else []


def _undecided(goal: Evidence) -> str:
    if goal.p is None:
        return f"{goal.label} cannot be tested: {goal.estimate}."
    return f"{goal.label} is undecided: {goal.estimate}{f'; {goal.outlook}' if goal.outlook else ''}."


def _held(guardrails: Sequence[Evidence]) -> list[str]:
    """Name the guardrails that are shown to hold, and those without a margin that are not significantly worse."""
    shown = [m.label for m in guardrails if m.holds]
    not_worse = [m.label for m in guardrails if m.holds is None]
    reasons = [f"Shown to hold: {', '.join(shown)}."] if shown else []
    return reasons + ([f"No guardrail is worse ({', '.join(not_worse)})."] if not_worse else [])


def _sign(metric: Evidence, alpha: float) -> int:
    """Return +1 if significantly better, -1 if significantly worse, 0 if undecided."""
    significant = metric.crossed if metric.crossed is not None else metric.p is not None and metric.p < alpha
    if not significant or metric.difference is None:
        return 0
    return 1 if (metric.difference > 0) == (metric.direction == "increase") else -1

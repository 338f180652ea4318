"""From metrics and checks to one of four words, with the reasons."""

from collections.abc import Sequence
from typing import Literal

import msgspec

from analysis.checks import Check
from analysis.metrics import Direction, Role

Verdict = Literal["ship", "do not ship", "keep running", "cannot trust"]


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    verdict: Verdict
    reasons: list[str]


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """What a decision needs to know of a metric. p: adjusted for goals; None if there is no effect to test."""

    label: str
    role: Role
    direction: Direction
    difference: float | None
    p: float | None
    described: str  # the lift with its interval, in words


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down adjusted p-values (1979), in the order given. None stays None and counts as no test."""
    known = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, index) in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - rank) * p))
        adjusted[index] = highest
    return adjusted


def decide(metrics: Sequence[Judged], checks: Sequence[Check], alpha: float = 0.05) -> Decision:
    """The rule, in this order:

    1. a failed check: cannot trust;
    2. a guardrail or a goal is significantly worse: do not ship;
    3. at least one goal is significantly better: ship;
    4. otherwise: keep running.
    Goals are judged by p-values adjusted for their number (Holm); each guardrail for itself, the cautious way.
    """
    failed = [check.sentence for check in checks if check.status == "fail"]
    if failed:
        return Decision(verdict="cannot trust", reasons=failed)
    goals = [m for m in metrics if m.role == "goal"]
    guardrails = [m for m in metrics if m.role == "guardrail"]
    worse = [m for m in goals + guardrails if _sign(m, alpha) < 0]
    better = [m for m in goals if _sign(m, alpha) > 0]
    warned = [check.name.replace("_", " ") for check in checks if check.status == "warn"]
    warnings = [f"Read with care: {', '.join(warned)}."] if warned else []
    if worse:
        reasons = [f"{m.label} ({m.role}) is worse: {m.described}." for m in worse]
        return Decision(verdict="do not ship", reasons=reasons + warnings)
    held = [f"No guardrail is worse ({', '.join(m.label for m in guardrails)})."] if guardrails else []
    open_goals = [
        f"{m.label} is undecided: {m.described}." if m.p is not None else f"{m.label} cannot be tested: {m.described}."
        for m in goals
        if m not in better
    ]
    if better:
        reasons = [f"{m.label} is better: {m.described}." for m in better]
        return Decision(verdict="ship", reasons=reasons + open_goals + held + warnings)
    return Decision(verdict="keep running", reasons=open_goals + held + warnings)


def _sign(metric: Judged, alpha: float) -> int:
    """+1 significantly better, -1 significantly worse, 0 undecided."""
    if metric.p is None or metric.difference is None or metric.p >= alpha:
        return 0
    return 1 if (metric.difference > 0) == (metric.direction == "increase") else -1

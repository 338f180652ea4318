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
    """What a decision needs to know of a metric. p: adjusted for goals; None if there is no effect to test.
    holds: of a guardrail with a margin, whether a loss as large is ruled out. crossed: at a look of a group-sequential
    design, whether the boundary is; it then stands in for p < alpha."""

    label: str
    role: Role
    direction: Direction
    difference: float | None
    p: float | None
    described: str  # the lift with its interval, in words
    outlook: str = ""  # how long it would take to know more
    margin: float | None = None
    holds: bool | None = None
    crossed: bool | None = None


def decide(metrics: Sequence[Judged], checks: Sequence[Check], alpha: float = 0.05) -> Decision:
    """The rule, in this order:

    1. a failed check: cannot trust;
    2. a guardrail or a goal is significantly worse: do not ship;
    3. at least one goal is significantly better, and every guardrail with a margin is shown to hold: ship;
    4. otherwise: keep running.
    Goals are judged by p-values adjusted for their number (Holm), or at a look of a design by their boundaries, each
    for its part of alpha (Bonferroni); each guardrail for itself, the cautious way.
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
    unshown = [m for m in guardrails if m.holds is False]
    held = _held(guardrails)
    open_goals = [
        f"{m.label} is undecided: {m.described}{f'; {m.outlook}' if m.outlook else ''}."
        if m.p is not None
        else f"{m.label} cannot be tested: {m.described}."
        for m in goals
        if m not in better
    ]
    reasons = [f"{m.label} is better: {m.described}." for m in better]
    if better and not unshown:
        return Decision(verdict="ship", reasons=reasons + open_goals + held + warnings)
    missing = [
        f"{m.label} (guardrail) is not yet shown to lose less than {(m.margin or 0) * 100:g} %: {m.described}."
        for m in unshown
    ]
    return Decision(verdict="keep running", reasons=reasons + open_goals + missing + held + warnings)


def _held(guardrails: Sequence[Judged]) -> list[str]:
    """What can be said for the guardrails: shown to hold, or just not seen to be worse."""
    shown = [m.label for m in guardrails if m.holds]
    unseen = [m.label for m in guardrails if m.holds is None]
    said = [f"Shown to hold: {', '.join(shown)}."] if shown else []
    return said + ([f"No guardrail is worse ({', '.join(unseen)})."] if unseen else [])


def _sign(metric: Judged, alpha: float) -> int:
    """+1 significantly better, -1 significantly worse, 0 undecided."""
    significant = metric.crossed if metric.crossed is not None else metric.p is not None and metric.p < alpha
    if not significant or metric.difference is None:
        return 0
    return 1 if (metric.difference > 0) == (metric.direction == "increase") else -1

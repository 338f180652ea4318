"""What a report takes care of around its numbers: arms and goals before; notes, corrections, what may decide after."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isfinite

import msgspec

from analysis.aggregates import Aggregates
from analysis.decision import Judged
from analysis.errors import ArmError
from analysis.inference import Effect, Undefined
from analysis.metrics import Declared, Metric
from analysis.multiple import benjamini_hochberg, holm
from analysis.results import MetricResult


def with_goal(metrics: Sequence[Declared]) -> list[Declared]:
    """The metrics, with the first as a goal if none is."""
    if not metrics or any(metric.role == "goal" for metric in metrics):
        return list(metrics)
    return [replace(metrics[0], role="goal", margin=None), *metrics[1:]]


def check_arms(
    aggregates: Aggregates, control: str, treatment: str, expected: Mapping[str, float] | None
) -> dict[str, float]:
    """The expected split, after making sure that there is something to compare."""
    if control == treatment:
        raise ArmError(f"Control and treatment are both {control!r}. Name two different arms.")
    for arm, weight in (expected or {}).items():
        if not (isfinite(weight) and weight > 0):
            raise ArmError(f"The expected share of arm {arm!r} is {weight}, and must be above 0.")
    there = ", ".join(repr(arm) for arm in aggregates.arms) or "none"
    for role, arm in (("control", control), ("treatment", treatment)):
        if arm not in aggregates.arms and arm not in (expected or {}):
            raise ArmError(f"The {role} {arm!r} is not an arm of the data. Its arms: {there}.")
        if expected is not None and arm not in expected:
            raise ArmError(
                f"The expected split does not name the {role} {arm!r}; it names {', '.join(sorted(expected))}."
            )
    return dict(sorted((expected or dict.fromkeys(aggregates.arms, 1.0)).items()))


def note(metric: Declared, effect: Effect | Undefined) -> str:
    """What a reader of this row must know, in one sentence; empty if nothing."""
    if isinstance(effect, Undefined):
        return f"No effect: {effect.reason}."
    if effect.interval is None:
        return "The control's value is not above 0, so a relative lift has no meaning; read the difference."
    if effect.interval.shape != "bounded":
        return "The control's value is not clearly above 0, so the lift's interval is unbounded; read the difference."
    if isinstance(metric, Metric) and metric.adjusters and effect.theta is None:
        names = ", ".join(adjuster.name for adjuster in metric.adjusters)
        return f"Not adjusted: the covariate {names} does not vary."
    return ""


def corrected(reports: list[list[MetricResult]]) -> list[list[MetricResult]]:
    """Holm over the goals of all treatments; Benjamini-Hochberg over their secondary metrics, and over segments."""
    flat = [result for results in reports for result in results]
    for role, correct in (("goal", holm), ("secondary", benjamini_hochberg)):
        chosen = [index for index, result in enumerate(flat) if result.role == role]
        for index, p in zip(chosen, correct([flat[index].p for index in chosen]), strict=True):
            flat[index] = msgspec.structs.replace(flat[index], p_adjusted=p)
    by_rank = iter(benjamini_hochberg([part.p for result in flat for part in result.segments]))
    flat = [
        msgspec.structs.replace(
            result,
            segments=[msgspec.structs.replace(part, p_adjusted=next(by_rank)) for part in result.segments],
        )
        for result in flat
    ]
    size = len(reports[0])
    return [flat[start : start + size] for start in range(0, len(flat), size)]


def judged(result: MetricResult, alpha: float, *, peeking: bool, goals: int) -> Judged:
    """peeking: before the planned size, where only the confidence sequence may decide. goals: of all treatments, for
    what Holm's correction cannot be for: the sequences (by Bonferroni; a design's looks have their share of alpha)."""
    low, high, p, kind = result.low, result.high, result.p_adjusted if result.role == "goal" else result.p, "interval"
    if peeking and result.anytime is not None:
        low, high, kind = result.anytime.low, result.anytime.high, "confidence sequence"
        p = min(1.0, result.anytime.p * goals) if result.role == "goal" else result.anytime.p
    if result.look is not None:
        low, high, p, kind = result.look.low, result.look.high, result.p, "repeated interval"
        alpha = result.look.alpha
    if p is None:
        described = result.note.removesuffix(".") or "no test"
    elif result.look is not None and result.look.critical is None:
        described = f"{_signed(result.lift)}, too early to test"
    elif result.lift is None or low is None or high is None:
        described = f"no bounded lift, p = {p:.2g}"
    else:
        described = f"{_signed(result.lift)} ({_level(alpha)} {kind} {_signed(low)} to {_signed(high)})"
    left, outlook = result.remaining, ""
    if left is not None and left.days is not None:
        outlook = f"about {left.days:,} more day{'s' * (left.days != 1)} for ±{left.precision * 100:g} %"
    return Judged(
        label=result.label,
        role=result.role,
        direction=result.direction,
        difference=result.difference,
        p=p,
        described=described,
        outlook=outlook,
        holds=None if result.margin is None else result.margin.holds,
        margin=None if result.margin is None else result.margin.margin,
        crossed=None if result.look is None else result.look.crossed,
    )


def _signed(lift: float | None) -> str:
    return "no lift" if lift is None else f"{lift:+.1%}".replace("-", "−")


def _level(alpha: float) -> str:
    return f"{(1 - alpha) * 100:.4g}%"

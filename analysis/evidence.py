"""From a metric's result to the evidence that a verdict rests on: the numbers that may decide, and their wording."""

from dataclasses import dataclass

from analysis.results import MetricResult
from analysis.verdict import Evidence


def evidence_of(result: MetricResult, alpha: float, *, peeking: bool, goals: int) -> Evidence:
    """Choose the interval and the p-value that may decide on a metric.

    Args:
        result: The metric's result, with its p-value adjusted.
        alpha: Level of the tests.
        peeking: The planned size is not reached, so that only the confidence sequence may decide.
        goals: Number of goals of all treatments. It corrects the confidence sequences (Bonferroni), for which Holm's
            correction does not hold. A design's look has its share of alpha already.
    """
    deciding = _deciding(result, alpha, peeking=peeking, goals=goals)
    return Evidence(
        label=result.label,
        role=result.role,
        direction=result.direction,
        difference=result.difference,
        p=deciding.p,
        estimate=_estimate(result, deciding),
        outlook=_outlook(result),
        holds=None if result.margin is None else result.margin.holds,
        margin=None if result.margin is None else result.margin.margin,
        crossed=None if result.look is None else result.look.crossed,
    )


@dataclass(frozen=True)
class _Deciding:
    """The interval of the lift and the p-value that may decide, and the level of the interval."""

    kind: str
    low: float | None
    high: float | None
    p: float | None
    alpha: float


def _deciding(result: MetricResult, alpha: float, *, peeking: bool, goals: int) -> _Deciding:
    if result.look is not None:
        return _Deciding("repeated interval", result.look.low, result.look.high, result.p, result.look.alpha)
    if peeking and result.anytime is not None:
        p = min(1.0, result.anytime.p * goals) if result.role == "goal" else result.anytime.p
        return _Deciding("confidence sequence", result.anytime.low, result.anytime.high, p, alpha)
    p_value = result.p_adjusted if result.role == "goal" else result.p
    return _Deciding("interval", result.low, result.high, p_value, alpha)


def _estimate(result: MetricResult, deciding: _Deciding) -> str:
    if deciding.p is None:
        return result.note.removesuffix(".") or "no test"
    if result.look is not None and result.look.critical is None:
        return f"{_signed(result.lift)}, too early to test"
    if result.lift is None or deciding.low is None or deciding.high is None:
        return f"no bounded lift, p = {deciding.p:.2g}"
    level = f"{(1 - deciding.alpha) * 100:.4g}%"
    return f"{_signed(result.lift)} ({level} {deciding.kind} {_signed(deciding.low)} to {_signed(deciding.high)})"


def _outlook(result: MetricResult) -> str:
    left = result.remaining
    if left is None or left.days is None:
        return ""
    return f"about {left.days:,} more day{'s' * (left.days != 1)} for ±{left.precision * 100:g} %"


def _signed(lift: float | None) -> str:
    return "no lift" if lift is None else f"{lift:+.1%}".replace("-", "−")

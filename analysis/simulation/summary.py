"""From the effects of many runs to one summary."""

from collections.abc import Sequence
from math import sqrt

import numpy as np

from analysis.inference import Effect, LiftInterval, Undefined
from analysis.simulation.result import TrialSummary

CURVE = 101  # points of the distribution of p-values that are kept


def summarize(metric: str, lift: float, effects: Sequence[Effect | Undefined], alpha: float) -> TrialSummary:
    """Summarise the effects of all runs of one metric with one planted lift."""
    runs = len(effects)
    defined = [effect for effect in effects if isinstance(effect, Effect)]
    rejecting = [effect for effect in defined if effect.difference.p < alpha]
    intervals = [e.interval for e in defined if e.interval is not None]
    lifts = np.array([e.lift for e in defined if e.lift is not None])
    widths = [(i.high - i.low) / 2 for i in intervals if i.shape == "bounded"]
    below = sum(effect.difference.value < 0 for effect in rejecting)
    covering = sum(_covers(interval, lift) for interval in intervals)
    return TrialSummary(
        metric=metric,
        lift=lift,
        runs=runs,
        rejected=len(rejecting) / len(defined) if defined else None,
        rejected_ci=share_interval(len(rejecting), len(defined)),
        rejected_below=below / len(defined) if defined else None,
        rejected_above=(len(rejecting) - below) / len(defined) if defined else None,
        covered=covering / len(intervals) if intervals else None,
        covered_ci=share_interval(covering, len(intervals)),
        bias=float(lifts.mean()) - lift if lifts.size else None,
        error=float(lifts.std(ddof=1)) / sqrt(lifts.size) if lifts.size > 1 else None,
        half_width=float(np.median(widths)) if widths else None,
        unbounded=len(intervals) - len(widths),
        undefined=runs - len(intervals),
        p_rate=None if lift or not defined else excess_p(len(rejecting), len(defined), alpha),
    )


def _covers(interval: LiftInterval, lift: float) -> bool:
    """Say whether an interval contains the planted lift, up to rounding: a bound may lie on the lift itself."""
    if interval.shape != "bounded":
        return interval.contains(lift)
    return interval.low - 1e-9 <= lift <= interval.high + 1e-9


def share_interval(count: int, runs: int, *, alpha: float = 0.05) -> tuple[float, float] | None:
    """Return the exact interval of a share (Clopper, Pearson 1934); None without runs.

    Args:
        count: Runs in which the event happened.
        runs: Number of runs.
        alpha: 1 - coverage of the interval.
    """
    from scipy.special import betaincinv

    if runs == 0:
        return None
    low = float(betaincinv(count, runs - count + 1, alpha / 2)) if count else 0.0
    high = float(betaincinv(count + 1, runs - count, 1 - alpha / 2)) if count < runs else 1.0
    return low, high


def excess_p(count: int, runs: int, alpha: float) -> float:
    """Return the probability of at least `count` rejections in `runs` runs at the rate alpha."""
    from scipy.special import bdtrc

    return float(bdtrc(count - 1, runs, alpha)) if count else 1.0


def p_value_curve(effects: Sequence[Effect | Undefined]) -> list[float]:
    """Return the quantiles of the p-values at 0, 1, .. 100 %; empty without p-values."""
    p_values = [effect.difference.p for effect in effects if isinstance(effect, Effect)]
    return [float(p) for p in np.quantile(p_values, np.linspace(0, 1, CURVE))] if p_values else []

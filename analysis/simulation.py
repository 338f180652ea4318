"""Would the report have told the truth? A/A re-splits and planted lifts, on the user's own units.

Each run deals the units anew into two arms, as a hash of their ids would, and compares the arms as a report does. With
nothing planted, a rejection is a false positive: their share should be alpha. With a lift planted, every value of the
treatment's numerator is multiplied by 1 + lift, so that the true lift is known, and the runs show how often the
interval covers it, how often it is found, and whether the estimate is off on average. Values are capped after the lift
is planted, as in life: the bias of a cap is part of what is shown.

This is the one place that holds values of single users, in the memory of this process.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt

import msgspec
import numpy as np
from numpy.typing import NDArray

from analysis.aggregates import Moments, Pair
from analysis.arguments import check_count, check_scalar, check_share
from analysis.columns import Column, check_upper
from analysis.errors import DataError, MetricError, MissingColumnError
from analysis.inference import Effect, IntervalMethod, LiftInterval, Undefined, compare
from analysis.metrics import Declared, Metric, Proportion, Quantile, merged_needs
from analysis.quantiles import compare_quantiles, ranked
from analysis.query import quantile_rank

_Array = NDArray[np.float64]

BATCH = 4_000_000  # weights of units held at a time
CURVE = 101  # points of the distribution of p-values that are kept
DOUBTFUL_P = 0.001  # of the binomial test that the false positives come at the rate alpha at most


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of the runs of one metric with one planted lift.

    rejected: share with p < alpha of the runs that gave a p: the false-positive rate where the lift is 0, else power.
    rejected_below, rejected_above: of these, with an estimate below or above 0. covered: share of runs whose interval
    holds the planted lift (an unbounded one counts by what it excludes). rejected_ci, covered_ci: what the number of
    runs leaves open, as exact 95 % intervals (Clopper, Pearson). bias: mean estimate minus planted lift. error:
    standard error of `bias`. half_width: median of the bounded intervals. undefined: runs without a lift.
    p_rate: of the exact binomial test that `rejected` is alpha at most; None where a lift is planted or nothing was
    tested.
    """

    metric: str
    lift: float
    runs: int
    rejected: float | None
    rejected_ci: tuple[float, float] | None
    rejected_below: float | None
    rejected_above: float | None
    covered: float | None
    covered_ci: tuple[float, float] | None
    bias: float | None
    error: float | None
    half_width: float | None
    unbounded: int
    undefined: int
    p_rate: float | None

    @property
    def doubtful(self) -> bool:
        """Whether there are more false positives than the nominal rate, beyond what chance explains."""
        return self.p_rate is not None and self.p_rate < DOUBTFUL_P


class Simulation(msgspec.Struct, frozen=True, kw_only=True):
    """All outcomes. p_values: of each metric without a lift, the quantiles of its p at 0, 1, .. 100 %."""

    source: str
    units: int
    runs: int
    share: float
    alpha: float
    seed: int
    interval: IntervalMethod
    outcomes: list[Outcome]
    p_values: dict[str, list[float]]

    def outcome(self, metric: str, lift: float = 0.0) -> Outcome:
        """The outcome of a metric with a lift. LookupError if it was not simulated."""
        for found in self.outcomes:
            if (found.metric, found.lift) == (metric, lift):
                return found
        raise LookupError(f"Metric {metric!r} was not simulated with a lift of {lift}.")


def simulate(
    units: Mapping[str, NDArray[np.generic]],
    metrics: Sequence[Declared],
    *,
    lifts: Sequence[float] = (0.0, 0.05, 0.1),
    runs: int = 1000,
    size: int | None = None,
    share: float = 0.5,
    alpha: float = 0.05,
    interval: IntervalMethod = "fieller",
    seed: int = 0,
    source: str = "the data",
) -> Simulation:
    """Simulate experiments on these units: columns of one value per unit.

    lifts: to plant; 0, the A/A comparison, is always among the runs. size: units of each simulated experiment, drawn
    with replacement; None deals out the units that there are. share: of the treatment. A share of units (`Proportion`)
    takes no planted lift. Errors: ArgumentError, DataError, MetricError, MissingColumnError.
    """
    needs = merged_needs(metrics)
    check_count(runs, "runs", ge=20)
    check_share(share, "share")
    check_share(alpha, "alpha")
    planted = sorted({0.0, *(check_scalar(lift, "lift", gt=-1) for lift in lifts)})
    arrays = {name: _checked(units, name) for name in sorted({c.name for c in needs.quantities})}
    n = _common_length(arrays)
    if size is not None:
        check_count(size, "size", ge=4)
    trials = [
        _Trial(metric, lift, _prepared(metric, arrays, lift))
        for metric in metrics
        for lift in planted
        if lift == 0 or not isinstance(metric, Proportion)
    ]
    found: dict[tuple[str, float], list[Effect | Undefined]] = {(t.metric.name, t.lift): [] for t in trials}
    for weights in _weights(np.random.default_rng(seed), n, size, share, runs):
        for trial in trials:
            found[trial.metric.name, trial.lift] += trial.effects(*weights, alpha=alpha, interval=interval)
    outcomes = [_outcome(t.metric.name, t.lift, found[t.metric.name, t.lift], alpha) for t in trials]
    return Simulation(
        source=source,
        units=size or n,
        runs=runs,
        share=share,
        alpha=alpha,
        seed=seed,
        interval=interval,
        outcomes=outcomes,
        p_values={m.name: _curve(found[m.name, 0.0]) for m in metrics},
    )


@dataclass(frozen=True)
class _Trial:
    """One metric with one lift, ready to be compared in any split."""

    metric: Declared
    lift: float
    arms: "tuple[_Sums, _Sums] | tuple[_Array, _Array]"  # control, treatment: of all units, as if each were in that arm

    def effects(
        self, control: _Array, treatment: _Array, *, alpha: float, interval: IntervalMethod
    ) -> Iterator[Effect | Undefined]:
        """Effects in some splits. control, treatment: how often each unit is in the arm, shape (units, splits)."""
        left, right = self.arms
        if isinstance(left, _Sums) and isinstance(right, _Sums):
            assert isinstance(self.metric, Metric)
            for c, t in zip(left.moments(control), right.moments(treatment), strict=True):
                yield compare(self.metric, c, t, alpha=alpha, method=interval)
            return
        assert isinstance(self.metric, Quantile)
        assert isinstance(left, np.ndarray)
        assert isinstance(right, np.ndarray)
        for split in range(control.shape[1]):
            first, second = (
                ranked(np.repeat(values, weights[:, split].astype(np.intp)), self.metric.q)
                for values, weights in ((left, control), (right, treatment))
            )
            yield compare_quantiles(first, second, self.metric.q, alpha=alpha, method=interval)


@dataclass(frozen=True)
class _Sums:
    """The columns and products of a metric, by unit, taken from a shift."""

    columns: tuple[Column, ...]
    products: tuple[Pair, ...]
    shifts: Mapping[Column, float]
    table: _Array  # shape (1 + columns + products, units), the first row of ones

    def moments(self, weights: _Array) -> Iterator[Moments]:
        for sums in (self.table @ weights).T:
            n, rest = round(float(sums[0])), sums[1:]
            total = dict(zip(self.columns, map(float, rest), strict=False))
            means = {c: self.shifts[c] + total[c] / n for c in self.columns} if n else {}
            covariances = {
                (a, b): _not_below_zero(float(product) - total[a] * total[b] / n, a == b) / (n - 1)
                for (a, b), product in zip(self.products, rest[len(self.columns) :], strict=True)
            }
            yield Moments(n, means, covariances if n > 1 else None, {})


def _not_below_zero(value: float, square: bool) -> float:
    return max(value, 0.0) if square else value


def _prepared(
    metric: Declared, arrays: Mapping[str, _Array], lift: float
) -> "tuple[_Sums, _Sums] | tuple[_Array, _Array]":
    if isinstance(metric, Quantile):
        values = _quantity(metric.rank.column, arrays)
        return values, values * (1 + lift)
    assert isinstance(metric, Metric), f"no way to simulate {type(metric).__name__}"
    needs = metric.needs
    columns, products = tuple(sorted(needs.columns)), tuple(sorted(needs.products))
    before = {column: _values(column, arrays, 1.0) for column in columns}
    lifted = {metric.inputs[0], metric.uncapped.inputs[0]}
    after = {c: _values(c, arrays, 1 + lift) if c in lifted else before[c] for c in columns}
    shifts = {column: float(values.mean()) for column, values in before.items()}

    def sums(values: Mapping[Column, _Array]) -> _Sums:
        centred = {c: values[c] - shifts[c] for c in columns}
        rows = [np.ones(len(next(iter(values.values()))))]
        rows += [centred[c] for c in columns] + [centred[a] * centred[b] for a, b in products]
        return _Sums(columns, products, shifts, np.vstack(rows))

    control = sums(before)
    return control, sums(after) if lift else control


def _values(column: Column, arrays: Mapping[str, _Array], factor: float) -> _Array:
    """A column's values, its quantity multiplied first; the cap is the one of the data as they are."""
    raw = _quantity(column, arrays)
    values = raw * factor
    if column.cap is not None:
        cap = column.cap
        upper = _limit(raw, cap.upper, cap.upper_quantile, cap.nonzero)
        lower = _limit(raw, cap.lower, cap.lower_quantile, cap.nonzero)
        values = values if upper is None else np.minimum(values, check_upper(upper, str(column)))
        values = values if lower is None else np.maximum(values, lower)
    return (values > 0).astype(np.float64) if column.positive else values


def _quantity(column: Column, arrays: Mapping[str, _Array]) -> _Array:
    if column.where or column.window:
        raise MetricError(f"{column}: a simulation takes columns as they are. Apply filters and windows before.")
    return arrays[column.name]


def _limit(values: _Array, fixed: float | None, q: float | None, nonzero: bool) -> float | None:
    if q is None:
        return fixed
    chosen = values[values != 0] if nonzero else values
    if chosen.size == 0:
        raise MetricError("There is no value other than 0 to take a cap's quantile of.")
    rank = quantile_rank(q, chosen.size)
    return float(np.partition(chosen, rank - 1)[rank - 1])


def _checked(units: Mapping[str, NDArray[np.generic]], name: str) -> _Array:
    if name not in units:
        raise MissingColumnError(name, units, "The data")
    values = np.asarray(units[name], dtype=np.float64)
    if not np.isfinite(values).all():
        raise DataError(f"Column {name!r} holds NaN or infinite values. Clean them at the source.")
    return values


def _common_length(arrays: Mapping[str, _Array]) -> int:
    lengths = {values.size for values in arrays.values()}
    if len(lengths) != 1:
        raise DataError(f"The columns have different lengths: {sorted(lengths)}. Each needs one value per unit.")
    n = lengths.pop()
    if n < 4:
        raise DataError(f"There are {n} units, and two arms of two units each are the least to compare.")
    return n


def _weights(
    rng: np.random.Generator, n: int, size: int | None, share: float, runs: int
) -> Iterator[tuple[_Array, _Array]]:
    """How often each unit is in control and treatment, for some runs at a time: shape (n, runs) each."""
    batch = max(1, min(runs, BATCH // n))
    edges = [*range(0, runs, batch), runs]
    for start, end in pairwise(edges):
        count = end - start
        if size is None:
            treated = (rng.random((count, n)) < share).astype(np.float64)
            yield (1 - treated).T, treated.T
        else:
            drawn = [(rng.integers(n, size=size), rng.random(size) < share) for _ in range(count)]
            yield (
                np.array([np.bincount(who[~treated], minlength=n) for who, treated in drawn], dtype=np.float64).T,
                np.array([np.bincount(who[treated], minlength=n) for who, treated in drawn], dtype=np.float64).T,
            )


def _outcome(metric: str, lift: float, effects: Sequence[Effect | Undefined], alpha: float) -> Outcome:
    runs = len(effects)
    defined = [effect for effect in effects if isinstance(effect, Effect)]
    rejecting = [effect for effect in defined if effect.difference.p < alpha]
    intervals = [e.interval for e in defined if e.interval is not None]
    lifts = np.array([e.lift for e in defined if e.lift is not None])
    widths = [(i.high - i.low) / 2 for i in intervals if i.shape == "bounded"]
    below = sum(effect.difference.value < 0 for effect in rejecting)
    covering = sum(_covers(interval, lift) for interval in intervals)
    return Outcome(
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
        p_rate=None if lift or not defined else _too_many_p(len(rejecting), len(defined), alpha),
    )


def _covers(interval: LiftInterval, lift: float) -> bool:
    """Up to rounding: among equal values a bound may lie on the planted lift itself."""
    if interval.shape != "bounded":
        return interval.contains(lift)
    return interval.low - 1e-9 <= lift <= interval.high + 1e-9


def share_interval(count: int, runs: int, *, alpha: float = 0.05) -> tuple[float, float] | None:
    """Exact interval of a share that was seen `count` times in so many runs (Clopper, Pearson 1934)."""
    from scipy.special import betaincinv

    if runs == 0:
        return None
    low = float(betaincinv(count, runs - count + 1, alpha / 2)) if count else 0.0
    high = float(betaincinv(count + 1, runs - count, 1 - alpha / 2)) if count < runs else 1.0
    return low, high


def _too_many_p(count: int, runs: int, alpha: float) -> float:
    """Chance of so many rejections or more, if they came at the rate alpha."""
    from scipy.special import bdtrc

    return float(bdtrc(count - 1, runs, alpha)) if count else 1.0


def _curve(effects: Sequence[Effect | Undefined]) -> list[float]:
    p_values = [effect.difference.p for effect in effects if isinstance(effect, Effect)]
    return [float(p) for p in np.quantile(p_values, np.linspace(0, 1, CURVE))] if p_values else []

"""Simulated experiments on given units: A/A splits and planted lifts."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from analysis.errors import DataError, MissingColumnError
from analysis.inference import Effect, IntervalMethod, Undefined
from analysis.metrics import Declared, Proportion, merged_needs
from analysis.simulation.result import Simulation
from analysis.simulation.summary import p_value_curve, summarize
from analysis.simulation.trials import Trial
from analysis.validation import check_alpha, check_count, check_scalar, check_seed, check_share

_Array = NDArray[np.float64]

BATCH = 4_000_000  # weights of units held in memory at a time


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
    batch: int = BATCH,
) -> Simulation:
    """Simulate experiments on given units.

    Args:
        units: Columns by name, one value per unit, shape (n,) each.
        metrics: Metrics to compare. No lift is planted in a `Proportion`: multiplied values leave it unchanged.
        lifts: Lifts to plant. The A/A comparison, a lift of 0, is always simulated.
        runs: Number of simulated experiments, at least 20.
        size: Units of each simulated experiment, drawn with replacement. None splits the given units.
        share: Share of the units in the treatment.
        alpha: Level of the tests.
        interval: Method of the lift's interval.
        seed: Random seed.
        source: Name of the data in the result.
        batch: Weights of units held in memory at a time. It changes no result.

    Raises:
        ArgumentError: An argument is out of range.
        DataError: Values are not finite, columns differ in length, or there are fewer than four units.
        MetricError: A metric has filters or a window, or a cap leaves nothing.
        MissingColumnError: A metric names a column that is missing.
    """
    needs = merged_needs(metrics)
    check_count(runs, "runs", ge=20)
    check_share(share, "share")
    check_alpha(alpha)
    check_seed(seed)
    planted = sorted({0.0, *(check_scalar(lift, "lift", gt=-1) for lift in lifts)})
    arrays = {name: _checked(units, name) for name in sorted({c.name for c in needs.quantities})}
    n = _common_length(arrays)
    if size is not None:
        check_count(size, "size", ge=4)
    trials = [
        Trial.of(metric, lift, arrays)
        for metric in metrics
        for lift in planted
        if lift == 0 or not isinstance(metric, Proportion)
    ]
    effects: dict[tuple[str, float], list[Effect | Undefined]] = {(t.metric.name, t.lift): [] for t in trials}
    rng = np.random.default_rng(seed)
    for weights in _weights(rng, n, size, share, runs, max(1, min(runs, batch // n))):
        for trial in trials:
            effects[trial.metric.name, trial.lift] += trial.effects(*weights, alpha=alpha, interval=interval)
    return Simulation(
        source=source,
        units=size or n,
        runs=runs,
        share=share,
        alpha=alpha,
        seed=seed,
        interval=interval,
        outcomes=[summarize(*trial, effects[trial], alpha) for trial in effects],
        p_values={m.name: p_value_curve(effects[m.name, 0.0]) for m in metrics},
    )


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
        raise DataError(f"There are {n} units, and a comparison needs at least two units in each of two arms.")
    return n


def _weights(
    rng: np.random.Generator, n: int, size: int | None, share: float, runs: int, step: int
) -> Iterator[tuple[_Array, _Array]]:
    """Yield how often each unit is in control and treatment, for `step` runs at a time, shape (n, step) each."""
    edges = [*range(0, runs, step), runs]
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

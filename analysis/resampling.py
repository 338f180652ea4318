"""Answers that assume little: bootstrap, permutation test, Mann-Whitney. They need the users' values, not only sums.

Rows that are equal are interchangeable, so what is resampled is how often each *distinct* row is drawn: a binomial for
the users without any value, a multinomial over the distinct rows where those are few (clicks), and plain draws for the
rest (amounts). That is the same distribution as drawing users one by one and, where 3 % of the users buy, thirty times
less work. Resamples are made in blocks of bounded memory, from a generator that is passed in; neither the blocks nor
the order of the rows change a result.

References: Efron, Tibshirani 1993, chapter 14 (BCa); Phipson, Smyth 2010 (permutation p-values are never 0); Chung,
Romano 2013 (studentised permutation tests); Mann, Whitney 1947.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations
from math import comb, sqrt
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.arguments import check_count, check_share
from analysis.errors import DataError

_Array = NDArray[np.float64]
# Means per unit, shape (..., k), of the k columns -> the arm's value, shape (...).
Statistic = Callable[[_Array], _Array]
Comparison = Literal["lift", "difference"]

BLOCK = 250_000  # draws held at once: a few MB, which stay in the processor's cache; ten times as many are slower
# One draw from a binomial costs about as much as this many picks of a row; measured, and nothing hangs on it.
BINOMIAL_COST = 16


def mean(means: _Array) -> _Array:
    """The first column per unit."""
    return means[..., 0]


def ratio(means: _Array) -> _Array:
    """The first column over the second: a ratio of sums. Infinite or NaN where nothing is below the line."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return means[..., 0] / means[..., 1]


@dataclass(frozen=True)
class Bootstrap:
    """estimate: of the data as they are. low, high: 1 - alpha interval. undefined: resamples in which the comparison
    does not exist (an empty denominator); they are left out, and many of them mean that there is too little data."""

    estimate: float
    low: float
    high: float
    standard_error: float
    resamples: int
    undefined: int
    method: Literal["percentile", "bca"]


@dataclass(frozen=True)
class PermutationTest:
    """statistic: studentised difference of the data. p: two-sided. exact: over all divisions of the users in two."""

    statistic: float
    p: float
    resamples: int
    exact: bool


@dataclass(frozen=True)
class MannWhitney:
    """u: of the treatment. superiority: chance that a treated user's value is the larger one, ties counting half.

    p: two-sided, normal approximation with ties and continuity correction. It tests that the two distributions are the
    same, not that their means are: a change of GMV per user may have either sign beside it.
    """

    u: float
    superiority: float
    p: float


def bootstrap(
    control: ArrayLike,
    treatment: ArrayLike,
    rng: np.random.Generator,
    *,
    statistic: Statistic = mean,
    comparison: Comparison = "lift",
    method: Literal["percentile", "bca"] = "bca",
    resamples: int = 10_000,
    alpha: float = 0.05,
) -> Bootstrap:
    """Bootstrap interval of treatment against control: each arm is drawn anew, with replacement, `resamples` times.

    control, treatment: one row per unit, shape (n,) or (n, k); `statistic` makes a value of their column means, `mean`
    or `ratio` or any other. comparison: `lift` is value_t / value_c - 1, `difference` is value_t - value_c.
    Errors: DataError, ArgumentError.
    """
    from scipy.special import ndtr, ndtri

    check_count(resamples, "resamples", ge=100)
    check_share(alpha, "alpha")
    arms = [_Rows.of(control, "control"), _Rows.of(treatment, "treatment")]
    estimate = float(_compared([statistic(arm.mean) for arm in arms], comparison))
    if not np.isfinite(estimate):
        raise DataError(f"The {comparison} of these arms does not exist: there is nothing below the line.")
    drawn = _compared([statistic(arm.resampled_means(resamples, rng)) for arm in arms], comparison)
    defined = drawn[np.isfinite(drawn)]
    if defined.size < 2:
        raise DataError("Hardly any resample has a value: there is too little data for a bootstrap.")
    levels = np.array([alpha / 2, 1 - alpha / 2])
    if method == "bca":
        share = (np.count_nonzero(defined < estimate) + 0.5 * np.count_nonzero(defined == estimate)) / defined.size
        bias = ndtri(np.clip(share, 0.5 / defined.size, 1 - 0.5 / defined.size))
        shifted = bias + ndtri(levels)
        levels = ndtr(bias + shifted / (1 - _acceleration(arms, statistic, comparison) * shifted))
    low, high = np.quantile(defined, levels)
    return Bootstrap(
        estimate, float(low), float(high), float(defined.std(ddof=1)), resamples, resamples - defined.size, method
    )


def permutation_test(
    control: ArrayLike,
    treatment: ArrayLike,
    rng: np.random.Generator,
    *,
    kind: Literal["mean", "ratio"] = "mean",
    resamples: int = 10_000,
) -> PermutationTest:
    """Permutation test that the arms are the same, with Welch's statistic (delta method for `ratio`).

    Studentised, it also keeps its level, in large samples, where only the means are the same. All divisions are gone
    through if there are no more than `resamples`. control, treatment: shape (n,) for `mean`, (n, 2) for `ratio`.
    """
    check_count(resamples, "resamples", ge=100)
    arms = [_rows(values, name) for values, name in ((control, "control"), (treatment, "treatment"))]
    sizes = (len(arms[0]), len(arms[1]))
    if min(sizes) < 2:
        raise DataError(f"The arms have {sizes[0]} and {sizes[1]} units, and each needs two.")
    if arms[0].shape[1] != arms[1].shape[1]:
        raise DataError(f"The arms have {arms[0].shape[1]} and {arms[1].shape[1]} columns, and must have the same.")
    pooled = _centred(np.concatenate(arms), kind)
    features = _features(pooled)
    # Summed in the order of their size, so that the order of the rows changes no digit.
    in_c, in_t = (np.sort(part, axis=0).sum(axis=0) for part in (features[: sizes[0]], features[sizes[0] :]))
    total = in_c + in_t
    observed = float(_studentised(in_t, total, sizes, kind))
    # There are at least as many divisions as units; the first comparison spares the binomials of millions.
    exact = sum(sizes) <= resamples and comb(sum(sizes), sizes[1]) <= resamples
    if exact:
        chosen = np.array(list(combinations(range(sum(sizes)), sizes[1])))
        sums = features[chosen].sum(axis=1)
    else:
        rows = _Rows.from_array(pooled)
        sums = replace(rows, rows=_features(rows.rows)).divided_sums(sizes[1], resamples, rng)
    drawn = np.abs(_studentised(sums, total, sizes, kind))
    # Rounding must not tell apart what are ties.
    extreme = int(np.count_nonzero(drawn >= abs(observed) * (1 - 1e-12)))
    p = extreme / len(drawn) if exact else (extreme + 1) / (resamples + 1)
    return PermutationTest(observed, p, len(drawn), exact)


def mann_whitney(control: ArrayLike, treatment: ArrayLike) -> MannWhitney:
    """Rank test of two arms, shapes (n,) and (m,), from the counts of distinct values."""
    from scipy.special import ndtr

    c, t = (_rows(values, name)[:, 0] for values, name in ((control, "control"), (treatment, "treatment")))
    _, place = np.unique(np.concatenate([c, t]), return_inverse=True)
    bins = int(place.max()) + 1
    in_c, in_t = (np.bincount(part, minlength=bins).astype(np.float64) for part in (place[: c.size], place[c.size :]))
    u = float(in_t @ (np.cumsum(in_c) - 0.5 * in_c))
    both, n, m = in_c + in_t, c.size, t.size
    total = n + m
    ties = float((both * (both**2 - 1)).sum()) / (total * (total - 1))
    variance = n * m / 12 * (total + 1 - ties)
    if variance <= 0:
        return MannWhitney(u, u / (n * m), 1.0)
    z = max(abs(u - n * m / 2) - 0.5, 0.0) / sqrt(variance)
    return MannWhitney(u, u / (n * m), min(1.0, float(2 * ndtr(-z))))


@dataclass(frozen=True)
class _Rows:
    """Distinct rows in ascending order with how often each occurs; rows of zeros are only counted."""

    n: int
    zeros: int
    rows: _Array  # (u, k), without the row of zeros
    counts: NDArray[np.int64]  # (u,)

    @classmethod
    def of(cls, values: ArrayLike, name: str) -> "_Rows":
        return cls.from_array(_rows(values, name))

    @classmethod
    def from_array(cls, array: _Array) -> "_Rows":
        some = array[np.any(array != 0, axis=1)]
        some = some[np.lexsort(some.T[::-1])]
        first = np.ones(len(some), dtype=bool)
        first[1:] = np.any(some[1:] != some[:-1], axis=1)
        starts = np.flatnonzero(first)
        return cls(len(array), len(array) - len(some), some[starts], np.diff(starts, append=len(some)))

    @property
    def mean(self) -> _Array:
        return np.asarray(self.counts @ self.rows / self.n)

    @property
    def _few(self) -> bool:
        """Whether it is cheaper to draw how often each distinct row occurs than to draw rows."""
        return len(self.rows) * BINOMIAL_COST < self.n - self.zeros

    def resampled_means(self, resamples: int, rng: np.random.Generator) -> _Array:
        """Column means of n rows drawn with replacement; shape (resamples, k)."""
        means = np.zeros((resamples, self.rows.shape[1]))
        some = self.n - self.zeros
        if some == 0:
            return means
        if self._few:
            weights = np.append(self.counts, self.zeros) / self.n
            for part in _blocks(resamples, len(weights)):
                drawn = rng.multinomial(self.n, weights, size=part.stop - part.start)
                means[part] = drawn[:, :-1] @ self.rows
            return means / self.n
        every = np.repeat(self.rows, self.counts, axis=0)
        # How many draws hit a row with a value, of all resamples first: so blocks change nothing.
        hits = rng.binomial(self.n, some / self.n, size=resamples)
        for part in _blocks(resamples, some):
            ends = np.cumsum(hits[part])
            picked = rng.integers(0, some, size=int(ends[-1]), dtype=np.int64)
            starts = ends - hits[part]
            hit = hits[part] > 0
            for column in range(every.shape[1]):
                if hit.any():
                    means[part, column][hit] = np.add.reduceat(every[:, column][picked], starts[hit])
        return means / self.n

    def divided_sums(self, size: int, resamples: int, rng: np.random.Generator) -> _Array:
        """Column sums of `size` of the rows drawn without replacement; shape (resamples, k)."""
        sums = np.zeros((resamples, self.rows.shape[1]))
        some = self.n - self.zeros
        if some == 0:
            return sums
        if self._few:
            colours = np.append(self.counts, self.zeros)
            for part in _blocks(resamples, len(colours)):
                drawn = rng.multivariate_hypergeometric(colours, size, size=part.stop - part.start, method="marginals")
                sums[part] = drawn[:, :-1] @ self.rows
            return sums
        every = np.repeat(self.rows, self.counts, axis=0)
        hits = rng.hypergeometric(some, self.zeros, size, size=resamples)
        for part in _blocks(resamples, some):
            shuffled = rng.permuted(np.broadcast_to(np.arange(some), (part.stop - part.start, some)), axis=1)
            taken = np.arange(some) < hits[part, None]
            for column in range(every.shape[1]):
                sums[part, column] = np.where(taken, every[:, column][shuffled], 0.0).sum(axis=1)
        return sums

    def left_out_means(self) -> tuple[_Array, NDArray[np.int64]]:
        """Column means without one unit, by distinct row (zeros last), and how many units are like it."""
        rows = np.vstack([self.rows, np.zeros(self.rows.shape[1])])
        return (self.n * self.mean - rows) / (self.n - 1), np.append(self.counts, self.zeros)


def _acceleration(arms: list[_Rows], statistic: Statistic, comparison: Comparison) -> float:
    """Acceleration of BCa by the jackknife over both arms: sum U^3 / n^3 over 6 (sum U^2 / n^2)^(3/2)."""
    cubes = squares = 0.0
    whole = [statistic(arm.mean) for arm in arms]
    for index, arm in enumerate(arms):
        means, counts = arm.left_out_means()
        left_out = list(whole)
        left_out[index] = statistic(means)
        values = np.where(counts > 0, _compared(left_out, comparison), 0.0)
        if not np.isfinite(values).all():
            raise DataError("Without one single unit the comparison does not exist: there is too little data for BCa.")
        influence = (arm.n - 1) * (counts @ values / arm.n - values)
        cubes += float(counts @ influence**3) / arm.n**3
        squares += float(counts @ influence**2) / arm.n**2
    return cubes / (6 * squares**1.5) if squares > 0 else 0.0


def _compared(arms: list[_Array], comparison: Comparison) -> _Array:
    control, treatment = arms
    if comparison == "difference":
        return treatment - control
    with np.errstate(divide="ignore", invalid="ignore"):
        return treatment / control - 1


def _centred(rows: _Array, kind: Literal["mean", "ratio"]) -> _Array:
    """For a mean, less the median: a common shift changes nothing but the digits that squares lose, and where most
    values are 0 it leaves them 0."""
    wanted = 1 if kind == "mean" else 2
    if rows.shape[1] != wanted:
        raise DataError(f"A permutation test of a {kind} takes {wanted} column(s), and there are {rows.shape[1]}.")
    return rows - np.median(rows) if kind == "mean" else rows


def _features(rows: _Array) -> _Array:
    """What the studentised statistic is made of: y and y^2 of one column, y, x, y^2, xy and x^2 of two."""
    if rows.shape[1] == 1:
        return np.column_stack([rows, rows * rows])
    y, x = rows.T
    return np.column_stack([y, x, y * y, x * y, x * x])


def _studentised(sums: _Array, total: _Array, sizes: tuple[int, int], kind: Literal["mean", "ratio"]) -> _Array:
    """(value_t - value_c) / standard error, from the treatment's sums of features, shape (..., f)."""
    values, variances = [], []
    for part, n in ((total - sums, sizes[0]), (sums, sizes[1])):
        m = part / n
        with np.errstate(divide="ignore", invalid="ignore"):
            if kind == "mean":
                values.append(m[..., 0])
                variances.append((m[..., 1] - m[..., 0] ** 2) / (n - 1))
            else:
                r = m[..., 0] / m[..., 1]
                values.append(r)
                residual = m[..., 2] - 2 * r * m[..., 3] + r * r * m[..., 4]
                variances.append(residual / (n - 1) / m[..., 1] ** 2)
    error = np.sqrt(np.maximum(variances[0] + variances[1], 0.0))
    difference = values[1] - values[0]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(difference == 0, 0.0, difference / error)


def _rows(values: ArrayLike, name: str) -> _Array:
    """One row per unit, shape (n, k), all finite."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2 or not array.size:
        raise DataError(f"The {name} has shape {np.shape(values)}, and must have one row per unit: (n,) or (n, k).")
    if not np.isfinite(array).all():
        raise DataError(f"The {name} holds NaN or infinite values. Clean them at the source.")
    return array


def _blocks(resamples: int, width: int) -> list[slice]:
    step = max(1, BLOCK // max(width, 1))
    return [slice(start, min(start + step, resamples)) for start in range(0, resamples, step)]

"""Tests with few assumptions: bootstrap, permutation test, Mann-Whitney. They need values of units, not only sums.

The random generator is passed in. The order of the rows never changes a result (see `distinct_rows`).

References: Efron, Tibshirani 1993, chapter 14 (BCa); Phipson, Smyth 2010 (permutation p-values are never 0); Chung,
Romano 2013 (studentised permutation tests); Mann, Whitney 1947.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import comb, sqrt
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.distinct_rows import BLOCK, DistinctRows, row_array
from analysis.errors import DataError
from analysis.inference import Scale
from analysis.validation import check_count, check_share

_Array = NDArray[np.float64]
Statistic = Callable[[_Array], _Array]
"""From the means per unit of k columns, shape (..., k), to the arm's value, shape (...)."""


def mean(means: _Array) -> _Array:
    """Return the mean of the first column."""
    return means[..., 0]


def ratio(means: _Array) -> _Array:
    """Return the first column divided by the second, a ratio of sums; infinite or NaN where the denominator is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return means[..., 0] / means[..., 1]


@dataclass(frozen=True)
class Bootstrap:
    """Result of a bootstrap.

    Attributes:
        estimate: Lift or difference of the data.
        low: Lower bound of the 1 - alpha interval.
        high: Upper bound of the 1 - alpha interval.
        standard_error: Standard deviation over the resamples.
        resamples: Number of resamples.
        undefined: Resamples without a value (the denominator is 0). They are left out; many of them mean that there is
            too little data.
        method: Method of the interval.
    """

    estimate: float
    low: float
    high: float
    standard_error: float
    resamples: int
    undefined: int
    method: Literal["percentile", "bca"]


@dataclass(frozen=True)
class PermutationTest:
    """Result of a permutation test.

    Attributes:
        statistic: Studentised difference of the data.
        p: Two-sided p-value.
        resamples: Number of divisions of the units into two arms.
        exact: Whether all possible divisions were compared.
    """

    statistic: float
    p: float
    resamples: int
    exact: bool


@dataclass(frozen=True)
class MannWhitney:
    """Result of a rank test.

    The test is that the two distributions are equal, not that their means are: GMV per user may rise or fall beside it.

    Attributes:
        u: U statistic of the treatment.
        superiority: Probability that a treated unit has a larger value than one of the control; ties count half.
        p: Two-sided p-value, by the normal approximation with ties and continuity correction.
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
    scale: Scale = "lift",
    method: Literal["percentile", "bca"] = "bca",
    resamples: int = 10_000,
    alpha: float = 0.05,
    block: int = BLOCK,
) -> Bootstrap:
    """Compute the bootstrap interval of treatment against control, drawing each arm with replacement.

    Args:
        control: One row per unit, shape (n,) or (n, k).
        treatment: One row per unit, shape (m,) or (m, k).
        rng: Random generator.
        statistic: The arm's value from its column means: `mean`, `ratio` or any other function.
        scale: `lift` is value_t / value_c - 1, `difference` is value_t - value_c.
        method: Method of the interval.
        resamples: Number of resamples, at least 100.
        alpha: 1 - coverage of the interval.
        block: Draws held in memory at once. It changes no result.

    Raises:
        ArgumentError: An argument is out of range.
        DataError: The values are not finite rows, or there is too little data.
    """
    from scipy.special import ndtr, ndtri

    check_count(resamples, "resamples", ge=100)
    check_share(alpha, "alpha")
    arms = [DistinctRows.of(v, name, block=block) for v, name in ((control, "control"), (treatment, "treatment"))]
    estimate = float(_compared([statistic(arm.mean) for arm in arms], scale))
    if not np.isfinite(estimate):
        raise DataError(f"The {scale} of these arms is undefined: the denominator is 0.")
    drawn = _compared([statistic(arm.resampled_means(resamples, rng)) for arm in arms], scale)
    defined = drawn[np.isfinite(drawn)]
    if defined.size < 2:
        raise DataError(f"Only {defined.size} of {resamples:,} resamples have a value: a bootstrap needs more data.")
    levels = np.array([alpha / 2, 1 - alpha / 2])
    if method == "bca":
        share = (np.count_nonzero(defined < estimate) + 0.5 * np.count_nonzero(defined == estimate)) / defined.size
        bias = ndtri(np.clip(share, 0.5 / defined.size, 1 - 0.5 / defined.size))
        shifted = bias + ndtri(levels)
        levels = ndtr(bias + shifted / (1 - acceleration(arms, statistic, scale) * shifted))
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
    block: int = BLOCK,
) -> PermutationTest:
    """Test by permutation that the arms are equal, with Welch's statistic (delta method for `ratio`).

    The statistic is studentised, so that in large samples the test also keeps its level where only the means are equal.

    Args:
        control: One row per unit, shape (n,) for `mean`, (n, 2) for `ratio`.
        treatment: One row per unit, shape (m,) for `mean`, (m, 2) for `ratio`.
        rng: Random generator.
        kind: Whether the arm's value is a mean, or the ratio of the means of two columns.
        resamples: Number of random divisions, at least 100. If there are no more divisions, all are compared.
        block: Draws held in memory at once. It changes no result.

    Raises:
        ArgumentError: `resamples` is too small.
        DataError: The values are not finite rows of the right width, or an arm has fewer than two units.
    """
    check_count(resamples, "resamples", ge=100)
    arms, sizes = _checked_arms(control, treatment)
    pooled = _centred(np.concatenate(arms), kind)
    features = _features(pooled)
    # Sort before summing, so that the order of the rows changes no digit.
    in_c, in_t = (np.sort(part, axis=0).sum(axis=0) for part in (features[: sizes[0]], features[sizes[0] :]))
    total = in_c + in_t
    observed = float(_studentised(in_t, total, sizes, kind))
    # There are at least as many divisions as units. The first comparison avoids the binomial of millions.
    exact = sum(sizes) <= resamples and comb(sum(sizes), sizes[1]) <= resamples
    if exact:
        chosen = np.array(list(combinations(range(sum(sizes)), sizes[1])))
        sums = features[chosen].sum(axis=1)
    else:
        rows = DistinctRows.from_array(pooled, block=block)
        sums = replace(rows, rows=_features(rows.rows)).divided_sums(sizes[1], resamples, rng)
    drawn = np.abs(_studentised(sums, total, sizes, kind))
    # The tolerance keeps rounding from separating ties.
    extreme = int(np.count_nonzero(drawn >= abs(observed) * (1 - 1e-12)))
    p = extreme / len(drawn) if exact else (extreme + 1) / (resamples + 1)
    return PermutationTest(observed, p, len(drawn), exact)


def _checked_arms(control: ArrayLike, treatment: ArrayLike) -> tuple[list[_Array], tuple[int, int]]:
    """Return the rows of both arms and their numbers of units."""
    arms = [row_array(values, name) for values, name in ((control, "control"), (treatment, "treatment"))]
    sizes = (len(arms[0]), len(arms[1]))
    if min(sizes) < 2:
        raise DataError(f"The arms have {sizes[0]} and {sizes[1]} units, and each needs two.")
    if arms[0].shape[1] != arms[1].shape[1]:
        raise DataError(f"The arms have {arms[0].shape[1]} and {arms[1].shape[1]} columns, and must have the same.")
    return arms, sizes


def mann_whitney(control: ArrayLike, treatment: ArrayLike) -> MannWhitney:
    """Compare the ranks of two arms, shapes (n,) and (m,), from the counts of distinct values.

    Raises:
        DataError: The values are not finite rows.
    """
    from scipy.special import ndtr

    c, t = (row_array(values, name)[:, 0] for values, name in ((control, "control"), (treatment, "treatment")))
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


def acceleration(arms: Sequence[DistinctRows], statistic: Statistic, scale: Scale) -> float:
    """Return the acceleration of BCa by the jackknife over both arms: sum U^3 / n^3 over 6 (sum U^2 / n^2)^(3/2).

    Args:
        arms: Rows of control and treatment.
        statistic: The arm's value from its column means.
        scale: Scale of the comparison.

    Raises:
        DataError: The comparison is undefined without a single unit.
    """
    cubes = squares = 0.0
    whole = [statistic(arm.mean) for arm in arms]
    for index, arm in enumerate(arms):
        means, counts = arm.left_out_means()
        left_out = list(whole)
        left_out[index] = statistic(means)
        values = np.where(counts > 0, _compared(left_out, scale), 0.0)
        if not np.isfinite(values).all():
            raise DataError("Without one single unit the comparison is undefined: BCa needs more data.")
        influence = (arm.n - 1) * (counts @ values / arm.n - values)
        cubes += float(counts @ influence**3) / arm.n**3
        squares += float(counts @ influence**2) / arm.n**2
    return cubes / (6 * squares**1.5) if squares > 0 else 0.0


def _compared(arms: Sequence[_Array], scale: Scale) -> _Array:
    control, treatment = arms
    if scale == "difference":
        return treatment - control
    with np.errstate(divide="ignore", invalid="ignore"):
        return treatment / control - 1


def _centred(rows: _Array, kind: Literal["mean", "ratio"]) -> _Array:
    """Subtract the median from the values of a mean, so that their squares lose no digits.

    Where most values are 0, they stay 0.
    """
    columns = 1 if kind == "mean" else 2
    if rows.shape[1] != columns:
        raise DataError(f"A permutation test of a {kind} takes {columns} column(s), and there are {rows.shape[1]}.")
    return rows - np.median(rows) if kind == "mean" else rows


def _features(rows: _Array) -> _Array:
    """Return the terms of the studentised statistic: y and y^2 of one column, y, x, y^2, xy and x^2 of two."""
    if rows.shape[1] == 1:
        return np.column_stack([rows, rows * rows])
    y, x = rows.T
    return np.column_stack([y, x, y * y, x * y, x * x])


def _studentised(sums: _Array, total: _Array, sizes: tuple[int, int], kind: Literal["mean", "ratio"]) -> _Array:
    """Return (value_t - value_c) / standard error, from the treatment's sums of features, shape (..., f)."""
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

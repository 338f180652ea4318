"""Moments of arrays in memory, for small samples and for tests. Reports take their moments from a source."""

from collections.abc import Mapping
from math import fsum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.aggregates import Moments, Needs, Tail
from analysis.columns import Column
from analysis.errors import DataError, MetricError, MissingColumnError
from analysis.validation import check_sample


def sample_moments(needs: Needs, columns: Mapping[str, ArrayLike], *, clusters: ArrayLike | None = None) -> Moments:
    """Compute the moments that a metric needs.

    Args:
        needs: What the metric needs.
        columns: Columns by name, one finite value per row, shape (rows,) each.
        clusters: The randomised unit of each row, shape (rows,), where rows are finer than units (sessions of a user).
            Columns are first summed within each cluster, and the clusters are the n units. A mean per row is then a
            `Ratio` of two sums with a column of ones as denominator; its variance is the cluster-robust one.

    Raises:
        DataError: The columns differ in length or hold values that are not finite.
        MetricError: The metric has a cap, filters or a window.
        MissingColumnError: A column is missing.
    """
    arrays = {name: _column(columns, name) for name in sorted({column.name for column in needs.columns})}
    lengths = {name: array.size for name, array in arrays.items()}
    if clusters is not None:
        labels, index = np.unique(np.asarray(clusters), return_inverse=True)
        lengths["clusters"] = index.size
    if len(set(lengths.values())) > 1:
        raise DataError(f"The columns have different lengths: {lengths}. Each needs one value per row.")
    if clusters is not None:
        arrays = {name: np.bincount(index, array, labels.size).astype(float) for name, array in arrays.items()}
    values = {column: _values(arrays[column.name], column) for column in needs.columns}
    n = next((array.size for array in values.values()), 0)
    if n == 0:
        return Moments(0, {}, None, {})
    means = {column: fsum(array) / n for column, array in values.items()}
    # Two passes: subtract the mean, then correct the products for the part of the mean that rounding left. A column
    # with a single value has no variance, however its mean is rounded.
    centred = {column: array - (means[column] if np.ptp(array) else array[0]) for column, array in values.items()}
    rests = {column: 0.0 if not np.ptp(array) else fsum(centred[column]) / n for column, array in values.items()}
    covariances = None
    if n > 1:
        covariances = {
            (a, b): float((centred[a] @ centred[b] - centred[a].sum() * centred[b].sum() / n) / (n - 1))
            for a, b in needs.products
        }
    tails = {
        column: Tail(int(np.count_nonzero(values[column])), float(np.max(np.abs(values[column]))))
        for column in needs.tails
    }
    return Moments(n, means, covariances, tails, rests)


def _column(columns: Mapping[str, ArrayLike], name: str) -> NDArray[np.float64]:
    if name not in columns:
        raise MissingColumnError(name, columns, "The data")
    return check_sample(columns[name], f"Column {name!r}", least=0)


def _values(array: NDArray[np.float64], column: Column) -> NDArray[np.float64]:
    if column.cap or column.where or column.window:
        raise MetricError(
            f"{column}: arrays are taken as they are. Apply cap, filters and window to {column.name!r} before."
        )
    return (array > 0).astype(np.float64) if column.positive else array

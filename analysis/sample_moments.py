"""Moments of arrays in memory, for simulations, resampled data and small samples. Reports take theirs from a source."""

from collections.abc import Mapping
from math import fsum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.aggregates import Moments, Needs, Tail
from analysis.columns import Column
from analysis.errors import DataError, MetricError, MissingColumnError
from analysis.validation import check_sample


def sample_moments(needs: Needs, columns: Mapping[str, ArrayLike], *, clusters: ArrayLike | None = None) -> Moments:
    """Moments of what `needs` names, from one value per row in each column (all of the same length, finite).

    clusters: the unit that was randomised, for rows that are finer (users of a shop, sessions of a user). Columns are
    first summed within each cluster, and the clusters are then the n units. A mean per row is a `Ratio` of two such
    sums, with a column of ones below; its variance is the cluster-robust one. Errors: DataError,
    MetricError, MissingColumnError.
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
    # The mean is taken off first, and what rounding left of it is taken off the product: both passes are needed.
    # A column of one value has no variance at all, whatever its mean was rounded to.
    centred = {column: array - (means[column] if np.ptp(array) else array[0]) for column, array in values.items()}
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
    return Moments(n, means, covariances, tails)


def _column(columns: Mapping[str, ArrayLike], name: str) -> NDArray[np.float64]:
    if name not in columns:
        raise MissingColumnError(name, columns, "The data")
    return check_sample(columns[name], f"Column {name!r}", least=0)


def _values(array: NDArray[np.float64], column: Column) -> NDArray[np.float64]:
    if column.cap or column.where or column.window:
        raise MetricError(f"An array is taken as it is. Cap, filter and cut {column.name!r} before: {column}.")
    return (array > 0).astype(np.float64) if column.positive else array

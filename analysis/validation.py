"""Checks of arguments. Each check returns the value, so that it can stand where the value is used."""

import operator
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.errors import ArgumentError, DataError

LEAST_ALPHA = 1e-10


def check_scalar(
    value: Any,
    name: str,
    *,
    gt: float | None = None,
    ge: float | None = None,
    lt: float | None = None,
    le: float | None = None,
) -> float:
    """Return a finite real number within the given bounds as a float.

    Args:
        value: The value to check.
        name: Name of the value in the error message.
        gt: The value must be above this.
        ge: The value must be at least this.
        lt: The value must be below this.
        le: The value must be at most this.

    Raises:
        ArgumentError: The value is not a finite number or is out of bounds.
    """
    rules = (
        (gt, "above", operator.gt),
        (ge, "at least", operator.ge),
        (lt, "below", operator.lt),
        (le, "at most", operator.le),
    )
    given = [(bound, words, holds) for bound, words, holds in rules if bound is not None]
    number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if number and isfinite(value) and all(holds(value, bound) for bound, _, holds in given):
        return float(value)
    rule = " and ".join(f"{words} {bound:g}" for bound, words, _ in given)
    raise ArgumentError(f"{name} is {value!r}, and must be a finite number{' ' + rule if rule else ''}.")


def check_count(value: Any, name: str, *, ge: int = 1) -> int:
    """Return a whole number of at least `ge` as an int.

    Raises:
        ArgumentError: The value is not a whole number or is too small.
    """
    if isinstance(value, int | np.integer) and not isinstance(value, bool) and value >= ge:
        return int(value)
    raise ArgumentError(f"{name} is {value!r}, and must be a whole number of at least {ge}.")


def check_share(value: Any, name: str) -> float:
    """Return a number strictly between 0 and 1 (a level, a power, a probability) as a float.

    Raises:
        ArgumentError: The value is not a number between 0 and 1.
    """
    return check_scalar(value, name, gt=0, lt=1)


def check_alpha(value: Any, name: str = "alpha") -> float:
    """Return the level of a test: a number below 1 and not so small that its critical value has no digits left.

    Raises:
        ArgumentError: The value is not a number in this range.
    """
    return check_scalar(value, name, ge=LEAST_ALPHA, lt=1)


def check_seed(value: Any) -> int:
    """Return a random seed: a whole number of at least 0.

    Raises:
        ArgumentError: The value is not such a number.
    """
    return check_count(value, "seed", ge=0)


def check_sample(values: ArrayLike, name: str, *, least: int = 2) -> NDArray[np.float64]:
    """Return one-dimensional finite values as float64, shape (n,).

    Args:
        values: One value per unit.
        name: Name of the values in error messages.
        least: Smallest number of units allowed.

    Raises:
        DataError: The values have another shape, are too few, or are not all finite.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise DataError(f"{name} has shape {array.shape}, and must be one-dimensional: one value per unit.")
    if array.size < least:
        raise DataError(f"{name} has {array.size} unit(s), and needs at least {least}.")
    if not np.isfinite(array).all():
        bad = int(np.count_nonzero(~np.isfinite(array)))
        raise DataError(f"{name} holds {bad} NaN or infinite value(s). Clean them at the source.")
    return array

"""Arguments checked on the way in. Each check returns the value, so that it can stand where the value is used."""

import operator
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.errors import ArgumentError, DataError


def check_scalar(
    value: Any,
    name: str,
    *,
    gt: float | None = None,
    ge: float | None = None,
    lt: float | None = None,
    le: float | None = None,
) -> float:
    """A finite real number within the bounds that are given, as float. Errors: ArgumentError."""
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
    wanted = " and ".join(f"{words} {bound:g}" for bound, words, _ in given)
    raise ArgumentError(f"{name} is {value!r}, and must be a finite number{' ' + wanted if wanted else ''}.")


def check_count(value: Any, name: str, *, ge: int = 1) -> int:
    """A whole number of at least `ge`. Errors: ArgumentError."""
    if isinstance(value, int | np.integer) and not isinstance(value, bool) and value >= ge:
        return int(value)
    raise ArgumentError(f"{name} is {value!r}, and must be a whole number of at least {ge}.")


def check_share(value: Any, name: str) -> float:
    """A number strictly between 0 and 1: a level, a power, a probability. Errors: ArgumentError."""
    return check_scalar(value, name, gt=0, lt=1)


def check_sample(values: ArrayLike, name: str, *, least: int = 2) -> NDArray[np.float64]:
    """One-dimensional finite values of at least `least` units, as float64. Errors: DataError."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise DataError(f"{name} has shape {array.shape}, and must be one-dimensional: one value per unit.")
    if array.size < least:
        raise DataError(f"{name} has {array.size} unit(s), and at least {least} are needed.")
    if not np.isfinite(array).all():
        bad = int(np.count_nonzero(~np.isfinite(array)))
        raise DataError(f"{name} holds {bad} NaN or infinite value(s). Clean them at the source.")
    return array

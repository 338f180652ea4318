"""Many tests at once: p-values adjusted so that each can still be held against alpha.

Bonferroni, Sidak, Holm, Hochberg and Hommel keep the chance of *any* false positive below alpha (family-wise error);
Benjamini-Hochberg and Benjamini-Yekutieli keep the expected *share* of false ones among all positives (false discovery
rate). Holm is never worse than Bonferroni and needs no assumption either: use it for goals. Hochberg and Hommel gain a
little and need independence or positive dependence; so does Benjamini-Hochberg, and Benjamini-Yekutieli does not.

All take p-values in any order and return adjusted ones in that order. None is a test that could not be made: it stays
None, and does not count.

References: Holm 1979; Hochberg 1988; Hommel 1988; Sidak 1967; Benjamini, Hochberg 1995; Benjamini, Yekutieli 2001.
"""

from collections.abc import Callable, Sequence
from math import expm1, log1p
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from analysis.errors import ArgumentError
from analysis.validation import check_scalar

PValues = Sequence[float | None]
Correction = Literal[
    "none", "bonferroni", "sidak", "holm", "hochberg", "hommel", "benjamini-hochberg", "benjamini-yekutieli"
]
_Array = NDArray[np.float64]


def adjust(p_values: PValues, correction: Correction) -> list[float | None]:
    """Adjusted p-values by the correction's name. Errors: ArgumentError for an unknown name or a p outside [0, 1]."""
    if correction not in _CORRECTIONS:
        raise ArgumentError(f"There is no correction {correction!r}. Take one of {', '.join(_CORRECTIONS)}.")
    known = [index for index, p in enumerate(p_values) if p is not None]
    checked = [check_scalar(p_values[index], f"p-value {index + 1}", ge=0, le=1) for index in known]
    adjusted: list[float | None] = [None] * len(p_values)
    if not known:
        return adjusted
    order = np.argsort(checked, kind="stable")
    result = np.minimum(_CORRECTIONS[correction](np.asarray(checked)[order]), 1.0)
    for position, value in zip(order, result, strict=True):
        adjusted[known[position]] = float(value)
    return adjusted


def holm(p_values: PValues) -> list[float | None]:
    """Holm's step-down: the i-th smallest of m times m - i + 1."""
    return adjust(p_values, "holm")


def benjamini_hochberg(p_values: PValues) -> list[float | None]:
    """Benjamini and Hochberg's step-up: the i-th smallest of m times m / i."""
    return adjust(p_values, "benjamini-hochberg")


def _bonferroni(p: _Array) -> _Array:
    return p * p.size


def _sidak(p: _Array) -> _Array:
    """1 - (1 - p)^m, without the loss of a small p beside 1."""
    return np.array([1.0 if value >= 1 else -expm1(p.size * log1p(-value)) for value in p.tolist()])


def _holm(p: _Array) -> _Array:
    return np.maximum.accumulate(p * np.arange(p.size, 0, -1))


def _hochberg(p: _Array) -> _Array:
    return _step_up(p * np.arange(p.size, 0, -1))


def _hommel(p: _Array) -> _Array:
    """Closed testing with Simes' test, by Wright's algorithm (1992)."""
    m = p.size
    adjusted = p.copy()
    for size in range(m, 1, -1):
        low = np.arange(m - size + 1)
        high = np.arange(m - size + 1, m)
        smallest = float(np.min(size * p[high] / np.arange(2, size + 1)))
        adjusted[high] = np.maximum(adjusted[high], smallest)
        adjusted[low] = np.maximum(adjusted[low], np.minimum(size * p[low], smallest))
    return adjusted


def _benjamini_hochberg(p: _Array) -> _Array:
    return _step_up(p * p.size / np.arange(1, p.size + 1))


def _benjamini_yekutieli(p: _Array) -> _Array:
    return _benjamini_hochberg(p) * np.sum(1 / np.arange(1, p.size + 1))


def _step_up(scaled: _Array) -> _Array:
    return np.minimum.accumulate(scaled[::-1])[::-1]


_CORRECTIONS: dict[str, Callable[[_Array], _Array]] = {
    "none": lambda p: p,
    "bonferroni": _bonferroni,
    "sidak": _sidak,
    "holm": _holm,
    "hochberg": _hochberg,
    "hommel": _hommel,
    "benjamini-hochberg": _benjamini_hochberg,
    "benjamini-yekutieli": _benjamini_yekutieli,
}

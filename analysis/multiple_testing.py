"""Many tests at once: adjusted p-values that can be compared with alpha.

Bonferroni, Sidak, Holm, Hochberg and Hommel keep the probability of *any* false positive below alpha (family-wise
error rate). Benjamini-Hochberg and Benjamini-Yekutieli keep the expected *share* of false positives among all positives
below alpha (false discovery rate). Holm is never worse than Bonferroni and needs no assumption either: use it for
goals. Hochberg and Hommel gain a little and need independence or positive dependence. So does Benjamini-Hochberg;
Benjamini-Yekutieli does not.

All functions take p-values in any order and return the adjusted ones in the same order. None stands for a test that
could not be run: it stays None and does not count.

References: Holm 1979; Hochberg 1988; Hommel 1988; Sidak 1967; Benjamini, Hochberg 1995; Benjamini, Yekutieli 2001.
"""

from collections.abc import Callable, Sequence
from math import expm1, log1p
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from analysis.errors import ArgumentError
from analysis.results import MetricResult
from analysis.validation import check_scalar

PValues = Sequence[float | None]
Correction = Literal[
    "none", "bonferroni", "sidak", "holm", "hochberg", "hommel", "benjamini-hochberg", "benjamini-yekutieli"
]
_Array = NDArray[np.float64]


def adjust(p_values: PValues, correction: Correction) -> list[float | None]:
    """Adjust p-values for their number.

    Args:
        p_values: The p-values; None for a test that could not be run.
        correction: Name of the correction.

    Raises:
        ArgumentError: The name is unknown, or a p-value lies outside [0, 1].
    """
    if correction not in _CORRECTIONS:
        raise ArgumentError(f"There is no correction {correction!r}. Use one of {', '.join(_CORRECTIONS)}.")
    tested = [index for index, p in enumerate(p_values) if p is not None]
    checked = [check_scalar(p_values[index], f"p-value {index + 1}", ge=0, le=1) for index in tested]
    adjusted: list[float | None] = [None] * len(p_values)
    if not tested:
        return adjusted
    order = np.argsort(checked, kind="stable")
    result = np.minimum(_CORRECTIONS[correction](np.asarray(checked)[order]), 1.0)
    for position, value in zip(order, result, strict=True):
        adjusted[tested[position]] = float(value)
    return adjusted


def holm(p_values: PValues) -> list[float | None]:
    """Apply Holm's step-down correction: the i-th smallest of m p-values times m - i + 1."""
    return adjust(p_values, "holm")


def benjamini_hochberg(p_values: PValues) -> list[float | None]:
    """Apply Benjamini and Hochberg's step-up correction: the i-th smallest of m p-values times m / i."""
    return adjust(p_values, "benjamini-hochberg")


def adjust_reports(reports: Sequence[Sequence[MetricResult]]) -> list[list[MetricResult]]:
    """Adjust the p-values of all reports for the number of tests.

    Holm's correction over the goals of all treatments; Benjamini-Hochberg over their secondary metrics, and over all
    segments of all metrics.

    Args:
        reports: The results of each report, one per treatment.

    Returns:
        The same results with adjusted p-values.
    """
    results = [result for report in reports for result in report]
    goals = iter(holm([result.p for result in results if result.role == "goal"]))
    secondary = iter(benjamini_hochberg([result.p for result in results if result.role == "secondary"]))
    segments = iter(benjamini_hochberg([part.p for result in results for part in result.segments]))
    by_role = {"goal": goals, "secondary": secondary}
    return [
        [
            msgspec.structs.replace(
                result,
                p_adjusted=next(by_role[result.role]) if result.role in by_role else result.p_adjusted,
                segments=[msgspec.structs.replace(part, p_adjusted=next(segments)) for part in result.segments],
            )
            for result in report
        ]
        for report in reports
    ]


def _bonferroni(p: _Array) -> _Array:
    return p * p.size


def _sidak(p: _Array) -> _Array:
    """Return 1 - (1 - p)^m without losing the digits of a small p."""
    return np.array([1.0 if value >= 1 else -expm1(p.size * log1p(-value)) for value in p.tolist()])


def _holm(p: _Array) -> _Array:
    return np.maximum.accumulate(p * np.arange(p.size, 0, -1))


def _hochberg(p: _Array) -> _Array:
    return _step_up(p * np.arange(p.size, 0, -1))


def _hommel(p: _Array) -> _Array:
    """Apply closed testing with Simes' test, by Wright's algorithm (1992)."""
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

"""The result of one check, and the wording that all checks share."""

from collections.abc import Sequence
from typing import Literal

import msgspec

from analysis.metrics import Metric

Status = Literal["ok", "warn", "fail"]


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one check.

    Attributes:
        name: Stable name of the check.
        status: `fail` rules out any decision on the report; `warn` asks the reader to be careful.
        sentence: The finding in one or two sentences.
        value: The checked number; None if the check has no number.
        threshold: The limit for `value`; None if the check has no limit.
    """

    name: str
    status: Status
    sentence: str
    value: float | None = None
    threshold: float | None = None


def p_text(p: float) -> str:
    """Return a p-value as text: `p = 0.03`, `p < 0.0001`."""
    return f"p = {p:.2g}" if p >= 1e-4 else "p < 0.0001"


def label_of(metric: Metric) -> str:
    """Return the name of a metric that people read."""
    return metric.label or metric.name


def joined(names: Sequence[str]) -> str:
    """Return names as a list in a sentence."""
    return ", ".join(names)

"""The result of one check, and the wording that all checks share."""

from collections.abc import Mapping, Sequence
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


def check_each(
    name: str,
    values: Mapping[str, float],
    threshold: float,
    *,
    finding: str,
    ok: str,
    low_is_bad: bool = False,
    status: Status = "warn",
) -> Check | None:
    """Compare the value of each metric, covariate or segment with a threshold; None without values.

    Args:
        name: Name of the check.
        values: Value by name.
        threshold: The threshold itself passes.
        finding: Sentence if a value does not pass. `{names}` stands for the names of such values, `{worst}` for the
            worst value, `{p}` for it as a p-value.
        ok: Sentence if all values pass, with the same fields.
        low_is_bad: Whether values below the threshold do not pass, instead of values above.
        status: Status if a value does not pass.
    """
    if not values:
        return None
    names = [key for key, value in values.items() if (value < threshold if low_is_bad else value > threshold)]
    worst = min(values.values()) if low_is_bad else max(values.values())
    sentence = (finding if names else ok).format(names=joined(names), worst=worst, p=p_text(worst))
    return Check(
        name=name,
        status=status if names else "ok",
        sentence=sentence,
        value=float(worst),
        threshold=float(threshold),
    )

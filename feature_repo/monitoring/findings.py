"""What of a status passes a threshold, as one sentence each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

import msgspec

from feature_repo.monitoring.canary import CanaryDrift, CanaryLimits
from feature_repo.monitoring.canary import findings as canary_findings
from feature_repo.monitoring.watch import ViewStatus


class Thresholds(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of a status; None and {} set no limit.

    Attributes:
        max_age: The greatest age of the newest event.
        max_empty: The greatest share of products without a feature, by feature.
        norm_tolerance: The greatest difference of a vector's length from 1.
        canary: The limits of the drift between two model versions.
    """

    max_age: timedelta | None = None
    max_empty: Mapping[str, float] = {}
    norm_tolerance: float | None = None
    canary: CanaryLimits = CanaryLimits()


def findings(statuses: Sequence[ViewStatus], thresholds: Thresholds, canary: CanaryDrift | None = None) -> list[str]:
    """Return what passes a threshold, one sentence each. A view without events has no age."""
    sentences = []
    for status in statuses:
        sentences += _age_findings(status, thresholds)
        sentences += _empty_findings(status, thresholds)
        sentences += _norm_findings(status, thresholds)
        sentences += status.schema_drift
    return sentences + (canary_findings(canary, thresholds.canary) if canary else [])


def _age_findings(status: ViewStatus, thresholds: Thresholds) -> list[str]:
    limit = thresholds.max_age
    if limit is None or status.age_s is None or status.age_s <= limit.total_seconds():
        return []
    return [f"{status.view}: the newest event is {timedelta(seconds=round(status.age_s))} old, over {limit}"]


def _empty_findings(status: ViewStatus, thresholds: Thresholds) -> list[str]:
    return [
        f"{status.view}: {feature} is empty in {status.empty_rates[feature]:.1%} of the products, over {limit:.1%}"
        for feature, limit in thresholds.max_empty.items()
        if feature in status.empty_rates and status.empty_rates[feature] > limit
    ]


def _norm_findings(status: ViewStatus, thresholds: Thresholds) -> list[str]:
    tolerance, norms = thresholds.norm_tolerance, status.norms
    if tolerance is None or norms is None:
        return []
    sentences = []
    worst = max(abs(norms.smallest - 1), abs(norms.largest - 1))
    if worst > tolerance:
        sentences.append(f"{status.view}: the length of a vector differs from 1 by {worst:.3g}, over {tolerance:g}")
    if norms.not_finite:
        sentences.append(f"{status.view}: {norms.not_finite} vectors have NaN or infinity")
    return sentences

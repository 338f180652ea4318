"""The results of the demo, as `sagelift demo --json` prints them."""

from __future__ import annotations

from typing import Any

import msgspec


class DemoCatalogue(msgspec.Struct, frozen=True):
    """The published catalogue.

    Attributes:
        source: Path of the feed.
        products: Number of products in the feature store.
        refused_rows: Number of rows of the feed that were refused.
    """

    source: str
    products: int
    refused_rows: int


class Percentiles(msgspec.Struct, frozen=True):
    """Milliseconds from an update's arrival in Kafka until its embedding is retrievable, over `count` embeddings."""

    p50: float
    p99: float
    count: int


class Lift(msgspec.Struct, frozen=True):
    """One metric of the report.

    CUPED adjusts `lift` for the behaviour of each user before the experiment. So it may differ from
    treatment / control - 1, which is `unadjusted`.

    Attributes:
        control: Mean of the control arm.
        treatment: Mean of the treatment arm.
        lift: Relative difference by `method`.
        low: Lower end of its confidence interval.
        high: Upper end of its confidence interval.
        p: p-value.
        method: Method of the lift.
        unadjusted: Relative difference without adjustment.
    """

    control: float | None
    treatment: float | None
    lift: float | None
    low: float | None
    high: float | None
    p: float | None
    method: str
    unadjusted: float | None


class DemoResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one run.

    Attributes:
        catalogue: The published catalogue.
        stages_s: Seconds of each stage.
        freshness_ms: Freshness of the catalogue changes.
        dead_letters: Number of messages that became dead letters.
        model: Figures of the training and the release.
        srm_p: p-value of the check for a sample ratio mismatch.
        lifts: Lifts by metric.
        decision: Conclusion of the report.
        report: Path of the report as HTML.
    """

    catalogue: DemoCatalogue
    stages_s: dict[str, float]
    freshness_ms: Percentiles
    dead_letters: int
    model: dict[str, Any]
    srm_p: float | None
    lifts: dict[str, Lift]
    decision: str
    report: str

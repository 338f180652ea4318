"""The figures of a status in Prometheus's text format, for the textfile collector of the node exporter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from feature_repo.monitoring.canary import CanaryDrift
from feature_repo.monitoring.watch import ViewStatus

_VIEW_METRICS: Final = {
    "age_s": "Seconds since the newest event.",
    "age_p50_s": "Median age of the products' last changes in seconds.",
    "age_p90_s": "90th percentile of the age of the products' last changes in seconds.",
    "age_p99_s": "99th percentile of the age of the products' last changes in seconds.",
    "products": "Live products in the history.",
    "deleted": "Deleted products in the history.",
    "online_rows": "Rows in the online store, including tombstones.",
    "history_rows": "Rows in the history, all versions.",
    "parts": "Parquet parts of the history.",
    "bytes": "Bytes of the history.",
}
_CANARY_METRICS: Final = {
    "products": "Products of the canary set that have a vector in both model versions.",
    "centroid_shift": "1 - cosine between the means of both versions' vectors.",
    "overlap": "Mean share of a product's nearest neighbors that both versions have in common.",
    "overlap_p10": "10th percentile of the share of nearest neighbors that both versions have in common.",
}

_Samples = Sequence[tuple[Mapping[str, str], float]]


def to_prometheus(statuses: Sequence[ViewStatus], canary: CanaryDrift | None = None) -> str:
    """Return all figures in Prometheus's text format."""
    lines: list[str] = []
    for name, help in _VIEW_METRICS.items():
        values = [(status.view, getattr(status, name)) for status in statuses]
        samples = [f'{{view="{view}"}} {value}' for view, value in values if value is not None]
        lines += [*_header(name, help), *(f"sagelift_features_{name}{sample}" for sample in samples)]
    lines += _metric("empty_rate", "Share of live products without this feature.", _empty_rates(statuses))
    lines += _metric("vector_length", "Length of the sampled vectors.", _vector_lengths(statuses))
    not_finite = [({"view": status.view}, status.norms.not_finite) for status in statuses if status.norms]
    lines += _metric("vectors_not_finite", "Sampled vectors with NaN or infinity.", not_finite)
    drift = [({"view": status.view}, len(status.schema_drift)) for status in statuses]
    lines += _metric("schema_drift", "Differences between the columns of parts and of the view.", drift)
    if canary:
        versions = {"old": canary.old, "new": canary.new}
        for name, help in _CANARY_METRICS.items():
            lines += _metric(f"canary_{name}", help, [(versions, getattr(canary, name))])
    return "\n".join(lines) + "\n"


def _empty_rates(statuses: Sequence[ViewStatus]) -> _Samples:
    return [
        ({"view": status.view, "feature": feature}, rate)
        for status in statuses
        for feature, rate in status.empty_rates.items()
    ]


def _vector_lengths(statuses: Sequence[ViewStatus]) -> _Samples:
    return [
        ({"view": status.view, "of": figure}, getattr(status.norms, figure))
        for status in statuses
        if status.norms
        for figure in ("smallest", "mean", "largest")
    ]


def _metric(name: str, help: str, samples: _Samples) -> list[str]:
    lines = _header(name, help) if samples else []
    for labels, value in samples:
        text = ",".join(f'{label}="{content}"' for label, content in labels.items())
        lines.append(f"sagelift_features_{name}{{{text}}} {value:.10g}")
    return lines


def _header(name: str, help: str) -> list[str]:
    return [f"# HELP sagelift_features_{name} {help}", f"# TYPE sagelift_features_{name} gauge"]

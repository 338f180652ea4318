"""Read the HTTP answers of a consumer: `/readyz` as JSON, and `/metrics` in Prometheus' text format."""

from __future__ import annotations

import json
import math
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

_TIMEOUT_S = 2.0

Samples = Mapping[str, Sequence[tuple[Mapping[str, str], float]]]
"""By metric name, the labels and the value of each sample."""


def fetch(url: str) -> tuple[dict[str, Any], str]:
    """Ask one consumer.

    Args:
        url: Base URL of the consumer.

    Returns:
        The answer of `/readyz`, and the text of `/metrics`.

    Raises:
        OSError: The consumer does not answer.
        ValueError: Another program answers.
    """
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy: the consumer is near

    def get(path: str) -> str:
        try:
            with opener.open(url + path, timeout=_TIMEOUT_S) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as error:
            if error.code != 503:
                raise
            return str(error.read().decode())

    readiness = json.loads(get("/readyz"))
    if not isinstance(readiness, dict):
        raise ValueError(f"{url}/readyz does not answer like a Sagelift consumer")
    return readiness, get("/metrics")


def parse(text: str) -> Samples:
    """Parse Prometheus' text format."""
    from prometheus_client.parser import text_string_to_metric_families

    samples: dict[str, list[tuple[Mapping[str, str], float]]] = defaultdict(list)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            samples[sample.name].append((sample.labels, sample.value))
    return samples


def total(samples: Samples, name: str) -> float:
    """Return the sum over all label values of a metric; 0 if it is absent."""
    return sum(value for _, value in samples.get(name, ()))


def counts_by(samples: Samples, name: str, *labels: str) -> dict[str, int]:
    """Return the non-zero values of a metric, by the values of these labels joined with spaces."""
    return {" ".join(values[label] for label in labels): int(value) for values, value in samples.get(name, ()) if value}


def buckets(samples: Samples, name: str) -> list[tuple[float, float]]:
    """Return the cumulative buckets of a histogram as (upper bound, count), sorted by bound."""
    return sorted((float(labels["le"]), value) for labels, value in samples.get(f"{name}_bucket", ()))


def recent_buckets(samples: Samples, old: Samples | None, name: str) -> list[tuple[float, float]]:
    """Return the growth of a histogram's buckets since `old`, or all of it if it did not grow."""
    current = buckets(samples, name)
    earlier = dict(buckets(old, name)) if old is not None else {}
    grown = [(bound, count - earlier.get(bound, 0.0)) for bound, count in current]
    return grown if grown and grown[-1][1] > 0 else current


def quantile(cumulative: Sequence[tuple[float, float]], q: float) -> float | None:
    """Estimate the q-quantile of a histogram by linear interpolation, like Prometheus' `histogram_quantile`.

    Args:
        cumulative: (upper bound, number of observations up to it), sorted by bound; the last bound is infinite.
        q: Between 0 and 1.

    Returns:
        The quantile; None if the histogram is empty.
    """
    count_all = cumulative[-1][1] if cumulative else 0
    if count_all <= 0:
        return None
    rank, lower, below = q * count_all, 0.0, 0.0
    for bound, count in cumulative:
        if count >= rank and count > below:
            return lower if math.isinf(bound) else lower + (bound - lower) * (rank - below) / (count - below)
        lower, below = bound, count
    return lower

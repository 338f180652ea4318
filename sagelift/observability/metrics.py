"""A consumer's Prometheus metrics; docs/operations.md says what each is for.

Names follow https://prometheus.io/docs/practices/naming/. Labels have few values: kinds of work and of failure, never
a product, a field or a message that a sender chooses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, disable_created_metrics, values
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from sagelift.observability.health import State

# Feast, once imported, has prometheus_client keep values in files that several processes share, by name and label.
# A consumer is one process, and what it counts is its own.
values.ValueClass = values.MutexValue

SKIPPED = frozenset({"duplicate", "embedding_unchanged", "features_unchanged", "no_model", "stale"})
"""Of what may become of an update: there was nothing to do."""
STAGES_THAT_REFUSE = ("fetch", "decode", "merge", "image", "embed", "store")

_CIRCUIT = ("closed", "open", "half_open")  # as `inference.failures.Circuit`

_FRESHNESS_S = (0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30, 60, 300, 1800, 7200)
_STAGE_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120)
_BATCH = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 5000)


class Live(NamedTuple):
    """What is looked at when someone asks, rather than counted."""

    state: State
    partitions: int
    lag: Mapping[int, int]
    under_way: int
    poison_share: float | None
    last_poll: float | None
    circuit: str | None = None


class WorkerMetrics:
    """An observer (`streaming.consumer.observer`) that counts. `registry` holds what it counts, and `live` when
    asked."""

    def __init__(self, consumer: str, version: str, live: Callable[[], Live]) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a series more for each counter, which nobody asks for
        self.registry = registry = CollectorRegistry()
        labels = {"consumer": consumer}

        def counter(name: str, text: str, *more: str) -> Counter:
            return Counter(name, text, ["consumer", *more], registry=registry)

        def histogram(name: str, text: str, buckets: Sequence[float], *more: str) -> Histogram:
            return Histogram(name, text, ["consumer", *more], buckets=buckets, registry=registry)

        self._consumer = consumer
        self._records = counter("sagelift_records", "Records that are through all stages.").labels(**labels)
        self._updates = counter("sagelift_updates", "What was done, by outcome.", "outcome")
        self._skipped = counter("sagelift_skipped", "Updates with which nothing had to be done, by reason.", "reason")
        self._letters = counter("sagelift_dead_letters", "Records that became dead letters, by stage.", "stage")
        self._retries = counter("sagelift_retries", "Attempts that failed and are made again.", "stage", "reason")
        self._unknown = counter("sagelift_unknown_fields", "Fields that no contract names, kept out.").labels(**labels)
        self._freshness = histogram(
            "sagelift_freshness_seconds", "From a record's arrival in Kafka to its effect being written.", _FRESHNESS_S
        ).labels(**labels)
        self._stages = histogram("sagelift_stage_seconds", "Time of one batch in one stage.", _STAGE_S, "stage")
        self._batches = histogram("sagelift_batch_records", "Records of a batch.", _BATCH).labels(**labels)
        for stage in STAGES_THAT_REFUSE:  # there from the start, so that the first one is seen as a rise
            self._letters.labels(consumer, stage)
        registry.register(_LiveCollector(consumer, version, live))
        ProcessCollector(registry=registry)

    def stage_done(self, stage: str, records: int, seconds: float) -> None:
        self._stages.labels(self._consumer, stage).observe(seconds)

    def stage_failed(self, stage: str, error: Exception) -> None:
        self._retries.labels(self._consumer, stage, type(error).__name__).inc()

    def finished(self, records: int, in_flight: int) -> None:
        self._records.inc(records)
        self._batches.observe(records)

    def counted(self, counts: Mapping[str, int]) -> None:
        for outcome, count in counts.items():
            if outcome in SKIPPED:
                self._skipped.labels(self._consumer, outcome).inc(count)
            elif not outcome.startswith("refused_"):  # counted when the broker has taken the dead letters
                self._updates.labels(self._consumer, outcome).inc(count)

    def dead_letters(self, by_stage: Mapping[str, int]) -> None:
        for stage, count in by_stage.items():
            self._letters.labels(self._consumer, stage).inc(count)

    def unknown_fields(self, names: Mapping[str, int]) -> None:
        self._unknown.inc(sum(names.values()))  # the names are the sender's choice: they are in the log

    def fresh(self, milliseconds: Sequence[float]) -> None:
        observe = self._freshness.observe
        for each in milliseconds:
            observe(each / 1000)


class _LiveCollector(Collector):
    def __init__(self, consumer: str, version: str, live: Callable[[], Live]) -> None:
        self._consumer, self._version, self._live = consumer, version, live

    def describe(self) -> Iterable[GaugeMetricFamily]:
        return ()  # so that nobody is asked at registration

    def collect(self) -> Iterable[GaugeMetricFamily]:
        live = self._live()
        yield self._gauge("sagelift_build_info", "The program's version.", {(self._version,): 1}, "version")
        states: dict[tuple[str, ...], float] = {(state,): float(state == live.state) for state in State}
        yield self._gauge("sagelift_state", "1 for the state that it is in, 0 for the others.", states, "state")
        if live.circuit is not None:
            circuit: dict[tuple[str, ...], float] = {(state,): float(state == live.circuit) for state in _CIRCUIT}
            text = "1 for the state of the circuit to Triton, 0 for the others."
            yield self._gauge("sagelift_triton_circuit", text, circuit, "state")
        lag: dict[tuple[str, ...], float] = {
            (str(number),): float(records) for number, records in sorted(live.lag.items())
        }
        yield self._gauge(
            "sagelift_lag_records", "Records not committed yet, of the partitions that it reads.", lag, "partition"
        )
        for name, text, value in (
            ("sagelift_partitions", "Partitions that it reads.", live.partitions),
            ("sagelift_in_flight_records", "Records that were read and are not through all stages.", live.under_way),
            ("sagelift_poison_share", "Share of refused messages in the window of poison.window_s.", live.poison_share),
            ("sagelift_last_poll_timestamp_seconds", "When it came back from its last poll.", live.last_poll),
        ):
            yield self._gauge(name, text, {} if value is None else {(): value})

    def _gauge(self, name: str, text: str, values: Mapping[tuple[str, ...], float], *more: str) -> GaugeMetricFamily:
        family = GaugeMetricFamily(name, text, labels=["consumer", *more])
        for label_values, value in values.items():
            family.add_metric([self._consumer, *label_values], value)
        return family


def quantile(cumulative: Sequence[tuple[float, float]], q: float) -> float | None:
    """The q-quantile of a histogram, as Prometheus' `histogram_quantile` estimates it; None when it is empty.

    Args:
        cumulative: (upper bound, observations up to it) in order, the last bound infinite.
    """
    total = cumulative[-1][1] if cumulative else 0
    if total <= 0:
        return None
    wanted, lower, below = q * total, 0.0, 0.0
    for bound, count in cumulative:
        if count >= wanted and count > below:
            return lower if math.isinf(bound) else lower + (bound - lower) * (wanted - below) / (count - below)
        lower, below = bound, count
    return lower

"""A consumer's Prometheus metrics; docs/operators/consumers.md explains each.

Names follow https://prometheus.io/docs/practices/naming/. Labels have few values: kinds of work and of failure, never
a product, a field or a text that a sender chooses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, disable_created_metrics, values
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from sagelift.observability.health import HealthState

# Feast, once imported, makes prometheus_client keep values in files that several processes share. A consumer is one
# process with its own counters.
values.ValueClass = values.MutexValue

SKIPPED = frozenset({"duplicate", "embedding_unchanged", "features_unchanged", "no_model", "stale"})
"""Outcomes of an update that needed no work."""
STAGES_THAT_REFUSE = ("fetch", "decode", "merge", "image", "embed", "store")
"""Stages that can turn a record into a dead letter."""

_CIRCUIT = ("closed", "open", "half_open")  # the values of `inference.triton.circuit.CircuitState`

_FRESHNESS_S = (0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30, 60, 300, 1800, 7200)
_STAGE_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120)
_BATCH = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 5000)


class LiveValues(NamedTuple):
    """Values that are read at a scrape instead of counted.

    Attributes:
        state: Health state.
        partitions: Number of partitions that the consumer reads.
        lag: Records not yet committed, by partition.
        in_flight: Records that were read and have not passed all stages.
        poison_share: Share of refused messages, between 0 and 1; None if it is not measured.
        last_poll: Unix time of the last poll that returned; None before the first.
        circuit: State of the circuit breaker to Triton; None without one.
    """

    state: HealthState
    partitions: int
    lag: Mapping[int, int]
    in_flight: int
    poison_share: float | None
    last_poll: float | None
    circuit: str | None = None


class WorkerMetrics:
    """An observer (`streaming.consumer.observer.Observer`) that counts.

    Args:
        consumer: Name of the consumer, the label of every series.
        version: The program's version.
        live: Called at each scrape for the values that are not counted.

    Attributes:
        registry: Registry of the counters and the live values.
    """

    def __init__(self, consumer: str, version: str, live: Callable[[], LiveValues]) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # they would double the number of series
        self.registry = registry = CollectorRegistry()
        labels = {"consumer": consumer}

        def counter(name: str, text: str, *more: str) -> Counter:
            return Counter(name, text, ["consumer", *more], registry=registry)

        def histogram(name: str, text: str, buckets: Sequence[float], *more: str) -> Histogram:
            return Histogram(name, text, ["consumer", *more], buckets=buckets, registry=registry)

        self._consumer = consumer
        self._records = counter("sagelift_records", "Records that passed all stages.").labels(**labels)
        self._updates = counter("sagelift_updates", "Records with an effect, by outcome.", "outcome")
        self._skipped = counter("sagelift_skipped", "Records without work, by reason.", "reason")
        self._letters = counter("sagelift_dead_letters", "Records that became dead letters, by stage.", "stage")
        self._retries = counter(
            "sagelift_retries", "Failed attempts that are retried, by stage and error class.", "stage", "reason"
        )
        self._unknown = counter(
            "sagelift_unknown_fields", "Fields that the contract does not name and that were ignored."
        ).labels(**labels)
        self._freshness = histogram(
            "sagelift_freshness_seconds",
            "Time from a record's arrival in Kafka until its effect is written.",
            _FRESHNESS_S,
        ).labels(**labels)
        self._stages = histogram(
            "sagelift_stage_seconds", "Duration of one batch in one stage, including retries.", _STAGE_S, "stage"
        )
        self._batches = histogram("sagelift_batch_records", "Records per batch.", _BATCH).labels(**labels)
        for stage in STAGES_THAT_REFUSE:  # from the start, so that the first dead letter shows as an increase
            self._letters.labels(consumer, stage)
        registry.register(_LiveCollector(consumer, version, live))
        ProcessCollector(registry=registry)

    def stage_done(self, stage: str, records: int, seconds: float) -> None:
        """Observe the duration of a batch in a stage."""
        self._stages.labels(self._consumer, stage).observe(seconds)

    def stage_failed(self, stage: str, error: Exception) -> None:
        """Count a failed attempt."""
        self._retries.labels(self._consumer, stage, type(error).__name__).inc()

    def finished(self, records: int, in_flight: int) -> None:
        """Count the records of a finished batch."""
        self._records.inc(records)
        self._batches.observe(records)

    def counted(self, counts: Mapping[str, int]) -> None:
        """Count the outcomes of a batch's updates."""
        for outcome, count in counts.items():
            if outcome in SKIPPED:
                self._skipped.labels(self._consumer, outcome).inc(count)
            elif not outcome.startswith("refused_"):  # counted as dead letters after the broker has acknowledged them
                self._updates.labels(self._consumer, outcome).inc(count)

    def dead_letters(self, by_stage: Mapping[str, int]) -> None:
        """Count acknowledged dead letters by stage."""
        for stage, count in by_stage.items():
            self._letters.labels(self._consumer, stage).inc(count)

    def unknown_fields(self, names: Mapping[str, int]) -> None:
        """Count ignored fields; their names are in the log, because a sender chooses them."""
        self._unknown.inc(sum(names.values()))

    def fresh(self, milliseconds: Sequence[float]) -> None:
        """Observe the freshness of written effects."""
        observe = self._freshness.observe
        for each in milliseconds:
            observe(each / 1000)


class _LiveCollector(Collector):
    def __init__(self, consumer: str, version: str, live: Callable[[], LiveValues]) -> None:
        self._consumer, self._version, self._live = consumer, version, live

    def describe(self) -> Iterable[GaugeMetricFamily]:
        return ()  # so that registration does not call `live`

    def collect(self) -> Iterable[GaugeMetricFamily]:
        live = self._live()
        yield self._gauge("sagelift_build_info", "The program's version.", {(self._version,): 1}, "version")
        states: dict[tuple[str, ...], float] = {(state,): float(state == live.state) for state in HealthState}
        yield self._gauge("sagelift_state", "1 for the current state, 0 for the others.", states, "state")
        if live.circuit is not None:
            circuit: dict[tuple[str, ...], float] = {(state,): float(state == live.circuit) for state in _CIRCUIT}
            text = "1 for the current state of the circuit breaker to Triton, 0 for the others."
            yield self._gauge("sagelift_triton_circuit", text, circuit, "state")
        lag: dict[tuple[str, ...], float] = {
            (str(number),): float(records) for number, records in sorted(live.lag.items())
        }
        yield self._gauge(
            "sagelift_lag_records",
            "Records not yet committed, for the partitions that the consumer reads.",
            lag,
            "partition",
        )
        for name, text, value in (
            ("sagelift_partitions", "Partitions that the consumer reads.", live.partitions),
            ("sagelift_in_flight_records", "Records that were read and have not passed all stages.", live.in_flight),
            ("sagelift_poison_share", "Share of refused messages in the last poison.window_s.", live.poison_share),
            ("sagelift_last_poll_timestamp_seconds", "Time of the last poll that returned.", live.last_poll),
        ):
            yield self._gauge(name, text, {} if value is None else {(): value})

    def _gauge(self, name: str, text: str, values: Mapping[tuple[str, ...], float], *more: str) -> GaugeMetricFamily:
        family = GaugeMetricFamily(name, text, labels=["consumer", *more])
        for label_values, value in values.items():
            family.add_metric([self._consumer, *label_values], value)
        return family

"""The long-running consumers: `sagelift stream catalog` and `sagelift stream events`."""

from __future__ import annotations

import gc
import logging
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import cache, partial
from typing import TYPE_CHECKING

import msgspec

from sagelift.observability.logs import configure
from sagelift.observability.monitor import Monitor
from sagelift.observability.server import serving
from sagelift.services import CATALOG_GROUP, EVENTS_GROUP, Services
from sagelift.settings import Settings
from sagelift.stack.worker_records import announced, folder_of, write_record

if TYPE_CHECKING:
    from streaming.catalogue.batch import EmbeddedBatch, FeatureBatch
    from streaming.consumer.loop import ConsumerLoop
    from streaming.consumer.partitions import Records
    from streaming.dead_letters.writer import DeadLetterWriter
    from streaming.kafka.connection import TopicPartition
    from streaming.kafka.lag import LagMeter

log = logging.getLogger(__name__)

POISONED = 4
"""Exit code of a consumer that stopped because most messages cannot be used. A restart would not help."""
WRONG_SETTINGS = 2
"""Exit code of a consumer whose settings are wrong."""


def catalog_worker(
    settings: Settings,
    stop: threading.Event,
    monitor: Monitor | None = None,
    after_first_batch: Callable[[], object] = lambda: None,
) -> None:
    """Consume `catalog.updates` until stopped; see `streaming.catalogue.pipeline`.

    Args:
        settings: Settings of the installation.
        stop: Ends the consumer when set. The batches in flight are finished and committed.
        monitor: Metrics and health; None makes new ones.
        after_first_batch: Called once after the first batch.
    """
    from inference.triton.circuit import CircuitBreaker
    from streaming.consumer.loop import ConsumerLoop
    from streaming.consumer.poison import PoisonGuard, PoisonLimit
    from streaming.dead_letters.writer import DeadLetterWriter
    from streaming.kafka.lag import LagMeter
    from streaming.kafka.topic_admin import ensure_topics
    from streaming.kafka.topics import CATALOG_UPDATES

    monitor = monitor or Monitor("catalog", stop)
    with Services(settings) as services:
        services.breaker = monitor.circuit = CircuitBreaker()  # fail fast: the loop itself retries
        ensure_topics(services.kafka, replication=settings.kafka.replication)
        dead_letters = DeadLetterWriter(services.producer(), CATALOG_GROUP)
        pipeline = services.catalog_pipeline(dead_letters.send_all)
        pipeline.observer = monitor.metrics
        pipeline.poison = monitor.poison = PoisonGuard(CATALOG_UPDATES, PoisonLimit(**settings.poison.model_dump()))
        # Each is called until it has succeeded once: `cache` does not remember an error.
        prepare_encoder, after_first = cache(services.prepare_visual_encoder), cache(after_first_batch)

        def features(records: Records) -> FeatureBatch:
            prepare_encoder()  # called inside the loop, so that the loop waits while Triton does not answer
            return pipeline.features([record for part in records.values() for record in part])

        def publishing(batch: EmbeddedBatch) -> None:
            result = pipeline.publishing(batch)
            after_first()
            counts = dict(+result.counts)
            log.info("catalogue: %s", counts, extra={"counts": counts})
            _log_unknown("catalogue", result.unknown_fields)

        loop = ConsumerLoop(
            services.kafka.consumer(CATALOG_GROUP, max_poll_records=512),
            CATALOG_UPDATES,
            {"features": features, "embeddings": pipeline.embeddings, "publishing": publishing},
            retryable=_catalog_retryable(),
            unreadable=partial(_refuse_unreadable, dead_letters, monitor),
            observer=monitor.metrics,
        )
        _run(loop, stop, monitor, partial(LagMeter, services.kafka, CATALOG_GROUP, CATALOG_UPDATES))


def _catalog_retryable() -> tuple[type[Exception], ...]:
    """Return the errors after which the loop tries the same batch again, forever.

    A server is unreachable, a model is not loaded or half written, a store is locked, or the disk is full. A
    `ServingError` is retried too, although the client gave up: a restart or a new release can repair Triton.
    """
    from sqlite3 import OperationalError

    from feature_repo.errors import HistoryError, StoreBusyError, StoreStateError
    from inference.errors import ArtifactError, ServingError
    from streaming.errors import BrokerError, RegistryError

    servers = (BrokerError, RegistryError, ServingError, ArtifactError)
    stores = (StoreBusyError, StoreStateError, HistoryError, OperationalError)
    return (*servers, *stores)


def events_worker(settings: Settings, stop: threading.Event, monitor: Monitor | None = None) -> None:
    """Consume `events` into the experiment database until stopped; see `streaming.events.sink`.

    Args:
        settings: Settings of the installation.
        stop: Ends the consumer when set. The batch in flight is finished and committed.
        monitor: Metrics and health; None makes new ones.
    """
    from streaming.consumer.loop import ConsumerLoop
    from streaming.consumer.poison import PoisonGuard, PoisonLimit
    from streaming.dead_letters.writer import DeadLetterWriter
    from streaming.events.sink import EventSink
    from streaming.kafka.lag import LagMeter
    from streaming.kafka.topic_admin import ensure_topics, log_id
    from streaming.kafka.topics import EVENTS

    monitor = monitor or Monitor("events", stop)
    with Services(settings) as services:
        kafka = services.kafka
        ensure_topics(kafka, replication=settings.kafka.replication)
        dead_letters = DeadLetterWriter(services.producer(), EVENTS_GROUP)
        sink = EventSink(services.experiments, dead_letters.send_all, log_id(kafka, EVENTS), kafka.codec)
        sink.observer = monitor.metrics
        # The feature store opens with the first engagement, inside the loop: the loop waits for an unreachable store.
        sink.recent = lambda engagements: services.features.add_engagements(engagements)
        sink.poison = monitor.poison = PoisonGuard(EVENTS, PoisonLimit(**settings.poison.model_dump()))

        def write(records: Records) -> None:
            sink.handle(records)
            _log_unknown("events", sink.unknown_fields)
            monitor.metrics.unknown_fields(sink.unknown_fields)
            sink.unknown_fields.clear()

        consumer = kafka.consumer(EVENTS_GROUP, max_poll_records=5000)
        loop = ConsumerLoop(
            consumer,
            EVENTS,
            {"write": write},
            retryable=_events_retryable(),
            unreadable=partial(_refuse_unreadable, dead_letters, monitor),
            start_offsets=lambda: sink.start_offsets(consumer, EVENTS),
            observer=monitor.metrics,
        )
        _run(loop, stop, monitor, partial(LagMeter, kafka, EVENTS_GROUP, EVENTS))


def _events_retryable() -> tuple[type[Exception], ...]:
    """Return the errors after which the loop tries the same batch again: a server is unreachable, a store is busy."""
    from sqlalchemy.exc import DBAPIError, TimeoutError

    from feature_repo.errors import HistoryError, StoreBusyError, StoreStateError
    from streaming.errors import BrokerError, RegistryError

    return (*(BrokerError, RegistryError, DBAPIError, TimeoutError), *(StoreBusyError, StoreStateError, HistoryError))


def _run(loop: ConsumerLoop, stop: threading.Event, monitor: Monitor, lag: Callable[[], LagMeter]) -> None:
    """Run a loop with its watchdog and its lag measurement."""
    from streaming.consumer.watchdog import end_process, watch

    monitor.loop = loop
    ended = threading.Event()
    threading.Thread(target=watch, args=(loop, ended), kwargs={"end": end_process}, daemon=True).start()
    try:
        with monitor.measuring_lag(lag):
            loop.run(stop)
    finally:
        ended.set()


def _refuse_unreadable(
    dead_letters: DeadLetterWriter, monitor: Monitor, partition: TopicPartition, offset: int, error: Exception
) -> None:
    """Write a dead letter for a record whose bytes the broker's log has lost."""
    dead_letters.send_unreadable(partition, offset, error)
    monitor.metrics.dead_letters({"fetch": 1})


def _log_unknown(topic: str, fields: Counter[str]) -> None:
    if fields:
        log.warning("%s: ignored fields that the contract does not have: %s", topic, dict(fields.most_common(10)))


def _freeze_memory() -> None:
    """Exclude all existing objects from garbage collection.

    The collector would walk through Feast's objects, which takes longer than many batches and frees none of them.
    """
    gc.collect()
    gc.freeze()


WORKERS: dict[str, Callable[[Settings, threading.Event, Monitor], None]] = {
    "catalog": partial(catalog_worker, after_first_batch=_freeze_memory),
    "events": events_worker,
}
"""The consumers by name."""


def run_worker(name: str, settings: Settings) -> None:
    """Run one consumer in this process until SIGTERM or Ctrl-C. Batches in flight are finished and committed.

    While it runs, it serves its metrics and its health; a file in the state folder contains their address.

    Args:
        name: Name of the consumer, one of `WORKERS`.
        settings: Settings of the installation.

    Raises:
        PoisonRateError: Most messages cannot be used.
        SettingsError: The address of metrics.host and metrics.port is not available.
    """
    started_at, stop = time.time(), threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    configure(settings.log_format)
    monitor, metrics = Monitor(name, stop), settings.metrics
    with (
        serving(metrics.host, metrics.port, monitor.metrics.registry, monitor.health, monitor.facts) as url,
        announced(settings.state, name, url, started_at) as record,
    ):
        log.info("%s: metrics and health at %s", name, url)
        try:
            WORKERS[name](settings, stop, monitor)
        except Exception as error:
            state, reason = monitor.end(error)
            log.critical("%s stops: %s: %s", name, state, reason, extra={"state": state})
            write_record(folder_of(settings.state), msgspec.structs.replace(record, ended=(state, reason)))
            raise

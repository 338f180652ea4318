"""The long-running consumers: `sagelift stream catalog` and `sagelift stream events`."""

from __future__ import annotations

import gc
import logging
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from sagelift.observability.logs import configure
from sagelift.observability.monitor import Monitor
from sagelift.observability.server import serving
from sagelift.services import CATALOG_GROUP, EVENTS_GROUP, Services
from sagelift.settings import Settings
from sagelift.stack.worker_records import announced, folder_of, write_record

if TYPE_CHECKING:
    from streaming.consumer.loop import ConsumerLoop
    from streaming.dead_letters.writer import DeadLetterWriter
    from streaming.kafka.connection import TopicPartition
    from streaming.kafka.lag import LagMeter

log = logging.getLogger(__name__)

POISONED = 4
"""Exit code of a consumer that stopped because most messages cannot be used: starting it again would not help."""
WRONG_SETTINGS = 2
"""Exit code of a consumer whose settings are wrong."""


def catalog_worker(
    settings: Settings,
    stop: threading.Event,
    monitor: Monitor | None = None,
    after_first_batch: Callable[[], object] = lambda: None,
) -> None:
    """Consume `catalog.updates` until stopped; see `streaming.catalogue.pipeline`."""
    from sqlite3 import OperationalError

    from feature_repo.errors import HistoryError, StoreBusyError, StoreStateError
    from inference.errors import ArtifactError, ServingError
    from inference.triton.circuit import CircuitBreaker
    from streaming.catalogue.batch import EmbeddedBatch, FeatureBatch
    from streaming.catalogue.pipeline import CatalogPipeline
    from streaming.consumer.loop import ConsumerLoop
    from streaming.consumer.partitions import Records
    from streaming.consumer.poison import PoisonGuard, PoisonLimit
    from streaming.dead_letters.writer import DeadLetterWriter
    from streaming.errors import BrokerError, RegistryError
    from streaming.kafka.lag import LagMeter
    from streaming.kafka.topic_admin import ensure_topics
    from streaming.kafka.topics import CATALOG_UPDATES

    monitor = monitor or Monitor("catalog", stop)
    with Services(settings) as services:
        services.breaker = monitor.circuit = CircuitBreaker()  # the loop tries again
        ensure_topics(services.kafka, replication=settings.kafka.replication)
        pipeline: CatalogPipeline = services.catalog_pipeline()
        pipeline.observer = monitor.metrics
        pipeline.poison = monitor.poison = PoisonGuard(CATALOG_UPDATES, PoisonLimit(**settings.poison.model_dump()))
        dead_letters = DeadLetterWriter(services.producer(), CATALOG_GROUP)
        prepared, waiting = False, [after_first_batch]

        def features(records: Records) -> FeatureBatch:
            nonlocal prepared
            if not prepared:  # here and not before the loop: a Triton that is away for a while is waited for
                services.prepare_visual_encoder()
                prepared = True
            return pipeline.features([r for part in records.values() for r in part])

        def publishing(batch: EmbeddedBatch) -> None:
            outcome = pipeline.publishing(batch)
            dead_letters.send_all(outcome.dead_letters)
            if outcome.dead_letters:
                pipeline.observer.dead_letters(Counter(letter.stage for letter in outcome.dead_letters))
            if waiting:
                waiting.pop()()
            counts = dict(+outcome.counts)
            log.info("catalogue: %s", counts, extra={"counts": counts})
            _log_unknown("catalogue", outcome.unknown_fields)

        # What a person or a supervisor mends while we wait: a server that is away, a model that is not loaded or was
        # left half-written, a store that is locked, a full disk.
        retryable = (
            *(BrokerError, RegistryError, ServingError, ArtifactError),
            *(StoreBusyError, StoreStateError, HistoryError, OperationalError),
        )
        consumer = services.kafka.consumer(CATALOG_GROUP, max_poll_records=512)
        loop = ConsumerLoop(
            consumer,
            CATALOG_UPDATES,
            {"features": features, "embeddings": pipeline.embeddings, "publishing": publishing},
            retryable=retryable,
            unreadable=partial(_refuse_unreadable, dead_letters, monitor),
            observer=monitor.metrics,
        )
        _run(loop, stop, monitor, partial(LagMeter, services.kafka, CATALOG_GROUP, CATALOG_UPDATES))


def events_worker(settings: Settings, stop: threading.Event, monitor: Monitor | None = None) -> None:
    """Consume `events` into the experiment database until stopped; see `streaming.events.sink`."""
    from sqlalchemy.exc import DBAPIError, TimeoutError

    from feature_repo.errors import HistoryError, StoreBusyError, StoreStateError
    from streaming.consumer.loop import ConsumerLoop
    from streaming.consumer.partitions import Records
    from streaming.consumer.poison import PoisonGuard, PoisonLimit
    from streaming.dead_letters.writer import DeadLetterWriter
    from streaming.errors import BrokerError, RegistryError
    from streaming.events.sink import EventSink
    from streaming.kafka.lag import LagMeter
    from streaming.kafka.topic_admin import ensure_topics, log_id
    from streaming.kafka.topics import EVENTS

    monitor = monitor or Monitor("events", stop)
    with Services(settings) as services:
        ensure_topics(services.kafka, replication=settings.kafka.replication)
        dead_letters = DeadLetterWriter(services.producer(), EVENTS_GROUP)
        kafka = services.kafka
        sink = EventSink(services.experiments, dead_letters.send_all, log_id(kafka, EVENTS), kafka.codec)
        sink.observer = monitor.metrics
        # Opened with the first engagement, inside the loop, which waits where the feature store cannot be had.
        sink.recent = lambda engaged: services.features.add_engagements(engaged)
        sink.poison = monitor.poison = PoisonGuard(EVENTS, PoisonLimit(**settings.poison.model_dump()))

        def handle(records: Records) -> None:
            sink.handle(records)
            _log_unknown("events", sink.unknown_fields)
            monitor.metrics.unknown_fields(sink.unknown_fields)
            sink.unknown_fields.clear()

        consumer = services.kafka.consumer(EVENTS_GROUP, max_poll_records=5000)
        loop = ConsumerLoop(
            consumer,
            EVENTS,
            {"write": handle},
            retryable=(
                *(BrokerError, RegistryError, DBAPIError, TimeoutError),
                *(StoreBusyError, StoreStateError, HistoryError),
            ),
            unreadable=partial(_refuse_unreadable, dead_letters, monitor),
            start_offsets=lambda: sink.start_offsets(consumer, EVENTS),
            observer=monitor.metrics,
        )
        _run(loop, stop, monitor, partial(LagMeter, services.kafka, EVENTS_GROUP, EVENTS))


def _run(loop: ConsumerLoop, stop: threading.Event, monitor: Monitor, lag: Callable[[], LagMeter]) -> None:
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
    dead_letters.send_unreadable(partition, offset, error)
    monitor.metrics.dead_letters({"fetch": 1})


def _log_unknown(what: str, fields: Counter[str]) -> None:
    if fields:
        log.warning("%s: fields that the contract does not name are kept out: %s", what, dict(fields.most_common(10)))


def _keep_what_is_in_memory() -> None:
    """Have the garbage collector pass over all that is there: walking through Feast again and again takes longer than
    many a batch, and none of it ever goes."""
    gc.collect()
    gc.freeze()


WORKERS: dict[str, Callable[[Settings, threading.Event, Monitor], None]] = {
    "catalog": partial(catalog_worker, after_first_batch=_keep_what_is_in_memory),
    "events": events_worker,
}


def run_worker(name: str, settings: Settings) -> None:
    """Run one consumer in this process until SIGTERM or Ctrl-C; what is in work is finished and committed.

    Meanwhile it serves its metrics and its health, and the state folder says where.

    Raises:
        PoisonRateError: most messages cannot be used.
        SettingsError: metrics.host and metrics.port cannot be listened on.
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

"""The long-running consumers: `sagelift stream catalog` and `sagelift stream events`."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from sagelift.services import Services
from sagelift.settings import Settings
from sagelift.stack.stack import LocalStack, StackOptions, WorkerSpec
from sagelift.triton_probe import KnownAnswerProbe

if TYPE_CHECKING:
    from streaming.loop import ConsumerLoop

log = logging.getLogger(__name__)

CATALOG_GROUP = "sagelift-catalog"
EVENTS_GROUP = "sagelift-events"


def catalog_worker(
    settings: Settings, stop: threading.Event, after_first_batch: Callable[[], object] = lambda: None
) -> None:
    """Consume `catalog.updates` until stopped; see `streaming.catalog`."""
    from sqlite3 import OperationalError

    from feature_repo.errors import HistoryError, StoreBusyError, StoreStateError
    from inference.errors import ArtifactError, ServingError
    from streaming.catalog import CatalogPipeline, Prepared
    from streaming.dead_letters import DeadLetters
    from streaming.errors import BrokerError
    from streaming.loop import ConsumerLoop, Records
    from streaming.poison import PoisonGuard, PoisonLimit
    from streaming.topics import CATALOG_UPDATES, ensure_topics

    with Services(settings) as services:
        ensure_topics(services.kafka, replication=settings.kafka.replication)
        pipeline: CatalogPipeline = services.catalog_pipeline()
        pipeline.poison = PoisonGuard(CATALOG_UPDATES, PoisonLimit())
        dead_letters = DeadLetters(services.producer(), CATALOG_GROUP)
        prepared, waiting = False, [after_first_batch]

        def features(records: Records) -> Prepared:
            nonlocal prepared
            if not prepared:  # here and not before the loop: a Triton that is away for a while is waited for
                services.prepare_visual_encoder()
                prepared = True
            return pipeline.features([r for part in records.values() for r in part])

        def publishing(batch: Prepared) -> None:
            outcome = pipeline.publishing(batch)
            dead_letters.send_all(outcome.dead_letters)
            if outcome.dead_letters:
                pipeline.observer.dead_letters(Counter(letter.stage for letter in outcome.dead_letters))
            if waiting:
                waiting.pop()()
            log.info("catalogue: %s", dict(+outcome.counts))
            _log_unknown("catalogue", outcome.unknown_fields)

        # What a person or a supervisor mends while we wait: a server that is away, a model that is not loaded or was
        # left half-written, a store that is locked, a full disk.
        transient = (
            *(BrokerError, ServingError, ArtifactError),
            *(StoreBusyError, StoreStateError, HistoryError, OperationalError),
        )
        consumer = services.kafka.consumer(CATALOG_GROUP, max_poll_records=512)
        loop = ConsumerLoop(
            consumer,
            CATALOG_UPDATES,
            {"features": features, "embeddings": pipeline.embeddings, "publishing": publishing},
            transient=transient,
            unreadable=dead_letters.send_unreadable,
            observer=pipeline.observer,
        )
        _run(loop, stop)


def events_worker(settings: Settings, stop: threading.Event) -> None:
    """Consume `events` into the experiment database until stopped; see `streaming.event_sink`."""
    from sqlalchemy.exc import DBAPIError, TimeoutError

    from streaming.dead_letters import DeadLetters
    from streaming.errors import BrokerError
    from streaming.event_sink import EventSink, log_id
    from streaming.loop import ConsumerLoop, Records
    from streaming.topics import EVENTS, ensure_topics

    with Services(settings) as services:
        ensure_topics(services.kafka, replication=settings.kafka.replication)
        dead_letters = DeadLetters(services.producer(), EVENTS_GROUP)
        sink = EventSink(services.experiments, dead_letters.send_all, log_id(services.kafka, EVENTS))

        def handle(records: Records) -> None:
            sink.handle(records)
            _log_unknown("events", sink.unknown_fields)
            sink.unknown_fields.clear()

        consumer = services.kafka.consumer(EVENTS_GROUP, max_poll_records=5000)
        loop = ConsumerLoop(
            consumer,
            EVENTS,
            {"write": handle},
            transient=(BrokerError, DBAPIError, TimeoutError),
            unreadable=dead_letters.send_unreadable,
            start_offsets=lambda: sink.start_offsets(consumer, EVENTS),
        )
        _run(loop, stop)


def _run(loop: ConsumerLoop, stop: threading.Event) -> None:
    from streaming.loop import end_process, watch

    ended = threading.Event()
    threading.Thread(target=watch, args=(loop, ended), kwargs={"end": end_process}, daemon=True).start()
    try:
        loop.run(stop)
    finally:
        ended.set()


def _log_unknown(what: str, fields: Counter[str]) -> None:
    if fields:
        log.warning("%s: fields that the contract does not name are kept out: %s", what, dict(fields.most_common(10)))


def _keep_what_is_in_memory() -> None:
    """Have the garbage collector pass over all that is there: walking through Feast again and again takes longer than
    many a batch, and none of it ever goes."""
    gc.collect()
    gc.freeze()


WORKERS: dict[str, Callable[[Settings, threading.Event], None]] = {
    "catalog": partial(catalog_worker, after_first_batch=_keep_what_is_in_memory),
    "events": events_worker,
}


def run_worker(name: str, settings: Settings) -> None:
    """Run one consumer in this process until SIGTERM or Ctrl-C; what is in work is finished and committed."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("kafka").setLevel(logging.ERROR)
    WORKERS[name](settings, stop)


def stack_options(settings: Settings) -> StackOptions:
    """The local stack as the settings want it: a service given by address is not started."""
    return StackOptions(
        kafka_bootstrap=settings.kafka.bootstrap_servers or None,
        kafka_port=settings.kafka.port or None,
        triton_url=settings.triton.url or None,
        triton_port=settings.triton.port or None,
        model_repository=settings.model_repository,
        triton_probe=KnownAnswerProbe(settings.model_repository),
    )


def worker_specs(stack: LocalStack, settings: Settings) -> Sequence[WorkerSpec]:
    """The consumers as processes of the local stack."""
    env = {
        "SAGELIFT_STATE_DIR": str(settings.state),
        "SAGELIFT_KAFKA__BOOTSTRAP_SERVERS": stack.kafka_bootstrap,
        "SAGELIFT_TRITON__URL": stack.triton_grpc,
        "SAGELIFT_TRITON__MODEL_REPOSITORY": str(stack.model_repository),
        # Said here, because a consumer that is told an address cannot know that the broker is the local one.
        "SAGELIFT_IMAGES__FOLDERS": os.pathsep.join(map(str, settings.image_folders)),
        # One thread each: on a small machine the consumers must not take the cores from Triton.
        "OMP_NUM_THREADS": "1",
    }
    return [WorkerSpec(name, [sys.executable, "-m", "sagelift", "stream", name], env) for name in WORKERS]

"""The long-running consumers: `sagelift stream catalog` and `sagelift stream events`."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Callable, Sequence

from sagelift.services import Services
from sagelift.settings import Settings
from sagelift.stack.stack import LocalStack, StackOptions, WorkerSpec
from sagelift.triton_probe import KnownAnswerProbe

log = logging.getLogger(__name__)

CATALOG_GROUP = "sagelift-catalog"
EVENTS_GROUP = "sagelift-events"


def catalog_worker(settings: Settings, stop: threading.Event) -> None:
    """Consume `catalog.updates` until stopped; see `streaming.catalog`."""
    from feature_repo.errors import HistoryError, StoreBusyError
    from inference.errors import ServingError
    from streaming.catalog import CatalogPipeline
    from streaming.dead_letters import DeadLetters
    from streaming.errors import BrokerError
    from streaming.loop import ConsumerLoop, Records
    from streaming.topics import CATALOG_UPDATES, ensure_topics

    with Services(settings) as services:
        ensure_topics(services.kafka, replication=settings.kafka.replication)
        pipeline: CatalogPipeline = services.catalog_pipeline()
        dead_letters = DeadLetters(services.producer(), CATALOG_GROUP)

        def handle(records: Records) -> None:
            outcome = pipeline.process([r for part in records.values() for r in part])
            dead_letters.send_all(outcome.dead_letters)
            log.info("catalogue: %s", dict(+outcome.counts))

        consumer = services.kafka.consumer(CATALOG_GROUP, max_poll_records=256)
        transient = (ServingError, StoreBusyError, HistoryError, BrokerError)
        ConsumerLoop(consumer, CATALOG_UPDATES, handle, transient=transient).run(stop)


def events_worker(settings: Settings, stop: threading.Event) -> None:
    """Consume `events` into the experiment database until stopped; see `streaming.event_sink`."""
    from sqlalchemy.exc import DBAPIError

    from streaming.dead_letters import DeadLetters
    from streaming.errors import BrokerError
    from streaming.event_sink import EventSink
    from streaming.loop import ConsumerLoop
    from streaming.topics import EVENTS, ensure_topics

    with Services(settings) as services:
        ensure_topics(services.kafka, replication=settings.kafka.replication)
        store = services.experiments
        sink = EventSink(store, DeadLetters(services.producer(), EVENTS_GROUP).send_all)
        consumer = services.kafka.consumer(EVENTS_GROUP, max_poll_records=5000)
        ConsumerLoop(
            consumer,
            EVENTS,
            sink.handle,
            transient=(DBAPIError, BrokerError),
            start_offsets=lambda: store.offsets(EVENTS),
        ).run(stop)


WORKERS: dict[str, Callable[[Settings, threading.Event], None]] = {"catalog": catalog_worker, "events": events_worker}


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
        triton_probe=KnownAnswerProbe(settings.model_repository),
    )


def worker_specs(stack: LocalStack, settings: Settings) -> Sequence[WorkerSpec]:
    """The consumers as processes of the local stack."""
    env = {
        "SAGELIFT_STATE_DIR": str(settings.state),
        "SAGELIFT_KAFKA__BOOTSTRAP_SERVERS": stack.kafka_bootstrap,
        "SAGELIFT_TRITON__URL": stack.triton_grpc,
        # One thread each: on a small machine the consumers must not take the cores from Triton.
        "OMP_NUM_THREADS": "1",
    }
    return [WorkerSpec(name, [sys.executable, "-m", "sagelift", "stream", name], env) for name in WORKERS]

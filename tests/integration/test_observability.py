"""A consumer of the real stack, seen from outside: what it did is in its metrics, how it is in its health."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sagelift.observability.scrape import Samples, fetch, parse
from sagelift.observability.stream_status import StreamStatus, ask_broker, collect, summarize
from sagelift.services import CATALOG_GROUP, Services
from sagelift.settings import PoisonSettings, Settings, load_settings
from sagelift.stack.kafka import KafkaBroker
from sagelift.stack.triton import TritonServer
from sagelift.stack.worker_records import read_records
from sagelift.workers import POISONED, catalog_worker
from streaming.kafka.codec import JSON
from streaming.kafka.connection import TopicPartition
from streaming.kafka.lag import LagMeter
from streaming.kafka.topic_admin import ensure_topics
from streaming.kafka.topics import CATALOG_UPDATES, PRODUCT_EMBEDDINGS, dead_letter_topic
from streaming.tracing import TRACEPARENT
from tests.streaming.builders import update

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

TRACE = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
GARBAGE = 60


@pytest.fixture(scope="module")
def settings(
    tmp_path_factory: pytest.TempPathFactory, cache: Path, triton: TritonServer, model_repository: Path
) -> Iterator[Settings]:
    """An installation with a broker of its own: its consumer is stopped by poison, which others must not meet."""
    state = tmp_path_factory.mktemp("seen")
    with KafkaBroker(state / "kafka", cache) as kafka:
        yield load_settings(
            state_dir=state,
            kafka={"bootstrap_servers": kafka.bootstrap},
            triton={"url": triton.grpc, "model_repository": model_repository},
            poison={"least": GARBAGE},
        )


@contextmanager
def consumer(settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    """A catalogue consumer as `sagelift stream catalog` starts it."""
    environment = {**os.environ, **settings.environment(), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "sagelift", "stream", "catalog"]
    with (settings.state / "catalog.log").open("ab") as log:
        started = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        yield started
    finally:
        started.terminate()
        started.wait(30)


@contextmanager
def dead_lettering(settings: Settings) -> Iterator[None]:
    """A consumer in this process, told to take whatever comes."""
    stop = threading.Event()
    told = settings.model_copy(update={"poison": PoisonSettings(share=1)})
    thread = threading.Thread(target=catalog_worker, args=(told, stop))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)
    assert not thread.is_alive()


def seen(settings: Settings) -> StreamStatus:
    """What `sagelift stream status` would show."""
    return summarize(ask_broker(settings), [], collect(settings, [], fetch))


def until(condition: Callable[[], bool], what: str, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s:.0f} s in vain for {what}"
        time.sleep(0.05)


def value(samples: Samples, name: str, **labels: str) -> float:
    return sum(number for found, number in samples.get(name, ()) if found.items() >= labels.items())


def ready(settings: Settings) -> bool:
    records = read_records(settings.state)
    try:
        return bool(records) and fetch(records[-1].url)[0]["ok"] is True
    except OSError:
        return False


def test_what_a_consumer_does_is_seen_from_outside_until_poison_stops_it(settings: Settings) -> None:
    with Services(settings) as services:
        ensure_topics(services.kafka)
        producer = services.producer()
        with consumer(settings) as process, LagMeter(services.kafka, CATALOG_GROUP, CATALOG_UPDATES) as meter:
            until(lambda: ready(settings), "the consumer to be ready")
            for number in range(20):
                message = JSON.encode(update(f"p{number}", 1))
                producer.send(CATALOG_UPDATES, message, b"p%d" % number, headers=[(TRACEPARENT, TRACE)])
            producer.send(CATALOG_UPDATES, b'{"id":"bad","version":3}', b"bad", headers=[(TRACEPARENT, TRACE)])
            producer.flush()
            until(lambda: meter.lag() == 0, "the updates to be handled")
            _, text = fetch(read_records(settings.state)[0].url)
            found = parse(text)
            assert value(found, "sagelift_records_total") == 21
            assert value(found, "sagelift_updates_total", outcome="embedded") == 20
            assert value(found, "sagelift_freshness_seconds_count") == 20
            assert 0 < value(found, "sagelift_freshness_seconds_sum") < 20 * 30
            assert value(found, "sagelift_dead_letters_total", stage="decode") == 1
            assert value(found, "sagelift_stage_seconds_count", stage="publishing") > 0
            assert value(found, "sagelift_partitions") == 8
            until(
                lambda: value(parse(fetch(read_records(settings.state)[0].url)[1]), "sagelift_lag_records") == 0,
                "the lag to be measured",
            )
            assert seen(settings).problems == []
            assert_the_trace_went_on(services, settings)

            for number in range(2 * GARBAGE):
                producer.send(CATALOG_UPDATES, b"id;title;price", b"%d" % number)
            producer.flush()
            assert process.wait(60) == POISONED
            assert meter.lag() > 0
        (worker,) = seen(settings).workers
        assert (worker.state, worker.well) == ("poisoned", False)
        assert "SAGELIFT_POISON__SHARE=1" in worker.reason

        with dead_lettering(settings), LagMeter(services.kafka, CATALOG_GROUP, CATALOG_UPDATES) as meter:
            until(lambda: meter.lag() == 0, "it all to be dead letters, as a person said")
        with LagMeter(services.kafka, "none", dead_letter_topic(CATALOG_UPDATES)) as letters:
            assert letters.end() == 1 + 2 * GARBAGE


def assert_the_trace_went_on(services: Services, settings: Settings) -> None:
    reader = services.kafka.consumer()
    try:
        partitions = [TopicPartition(PRODUCT_EMBEDDINGS, n) for n in range(8)]
        partitions.append(TopicPartition(dead_letter_topic(CATALOG_UPDATES), 0))
        reader.assign(partitions)
        reader.seek_to_beginning()
        found = []
        until(lambda: len(found.extend(r for p in reader.poll(500).values() for r in p) or found) == 21, "21 records")
    finally:
        reader.close()
    assert all(dict(record.headers)[TRACEPARENT] == TRACE for record in found)
    log = [json.loads(line) for line in (settings.state / "catalog.log").read_text().splitlines() if line[:1] == "{"]
    (refused,) = [line for line in log if line.get("trace_id") == TRACE.decode().split("-")[1]]
    assert (refused["product_id"], refused["version"], refused["stage"]) == ("bad", 3, "decode")
    assert refused["offset"] >= 0

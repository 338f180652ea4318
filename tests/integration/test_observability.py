"""A consumer of the real stack seen from outside: its metrics show its work, and its health shows its state."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
from tests.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

TRACE = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
GARBAGE = 60


@pytest.fixture(scope="module")
def settings(
    tmp_path_factory: pytest.TempPathFactory, cache: Path, triton: TritonServer, model_repository: Path
) -> Iterator[Settings]:
    """An installation with its own broker, because the bad messages that stop its consumer must not reach others."""
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
    """Run `sagelift stream catalog`."""
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
    """Run a consumer in this process that turns every bad message into a dead letter."""
    stop = threading.Event()
    tolerant = settings.model_copy(update={"poison": PoisonSettings(share=1)})
    thread = threading.Thread(target=catalog_worker, args=(tolerant, stop))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)
    assert not thread.is_alive()


def seen(settings: Settings) -> StreamStatus:
    """Return what `sagelift stream status` would show."""
    return summarize(ask_broker(settings), [], collect(settings, [], fetch))


def value(samples: Samples, name: str, **labels: str) -> float:
    return sum(number for found_labels, number in samples.get(name, ()) if found_labels.items() >= labels.items())


def ready(settings: Settings) -> bool:
    records = read_records(settings.state)
    try:
        return bool(records) and fetch(records[-1].url)[0]["ok"] is True
    except OSError:
        return False


def test_metrics_and_health_show_a_consumer_until_poison_stops_it(settings: Settings) -> None:
    with Services(settings) as services:
        ensure_topics(services.kafka)
        producer = services.producer()
        with consumer(settings) as process, LagMeter(services.kafka, CATALOG_GROUP, CATALOG_UPDATES) as meter:
            wait_until(lambda: ready(settings), "the consumer is not ready", timeout_s=60)
            for number in range(20):
                message = JSON.encode(update(f"p{number}", 1))
                producer.send(CATALOG_UPDATES, message, b"p%d" % number, headers=[(TRACEPARENT, TRACE)])
            producer.send(CATALOG_UPDATES, b'{"id":"bad","version":3}', b"bad", headers=[(TRACEPARENT, TRACE)])
            producer.flush()
            wait_until(lambda: meter.lag() == 0, "the updates are not handled", timeout_s=60)
            _, text = fetch(read_records(settings.state)[0].url)
            samples = parse(text)
            assert value(samples, "sagelift_records_total") == 21
            assert value(samples, "sagelift_updates_total", outcome="embedded") == 20
            assert value(samples, "sagelift_freshness_seconds_count") == 20
            assert 0 < value(samples, "sagelift_freshness_seconds_sum") < 20 * 30
            assert value(samples, "sagelift_dead_letters_total", stage="decode") == 1
            assert value(samples, "sagelift_stage_seconds_count", stage="publishing") > 0
            assert value(samples, "sagelift_partitions") == 8
            wait_until(
                lambda: value(parse(fetch(read_records(settings.state)[0].url)[1]), "sagelift_lag_records") == 0,
                "the lag is not measured",
                timeout_s=60,
            )
            assert seen(settings).problems == []
            assert_the_trace_continued(services, settings)

            for number in range(2 * GARBAGE):
                producer.send(CATALOG_UPDATES, b"id;title;price", b"%d" % number)
            producer.flush()
            assert process.wait(60) == POISONED
            assert meter.lag() > 0
        (worker,) = seen(settings).workers
        assert (worker.state, worker.well) == ("poisoned", False)
        assert "SAGELIFT_POISON__SHARE=1" in worker.reason

        with dead_lettering(settings), LagMeter(services.kafka, CATALOG_GROUP, CATALOG_UPDATES) as meter:
            wait_until(lambda: meter.lag() == 0, "messages are not dead letters yet", timeout_s=60)
        with LagMeter(services.kafka, "none", dead_letter_topic(CATALOG_UPDATES)) as letters:
            assert letters.end() == 1 + 2 * GARBAGE


def assert_the_trace_continued(services: Services, settings: Settings) -> None:
    reader = services.kafka.consumer()
    try:
        partitions = [TopicPartition(PRODUCT_EMBEDDINGS, n) for n in range(8)]
        partitions.append(TopicPartition(dead_letter_topic(CATALOG_UPDATES), 0))
        reader.assign(partitions)
        reader.seek_to_beginning()
        records: list[Any] = []

        def read_all() -> bool:
            records.extend(record for part in reader.poll(500).values() for record in part)
            return len(records) == 21

        wait_until(read_all, "21 records", timeout_s=60)
    finally:
        reader.close()
    assert all(dict(record.headers)[TRACEPARENT] == TRACE for record in records)
    log = [json.loads(line) for line in (settings.state / "catalog.log").read_text().splitlines() if line[:1] == "{"]
    (refused,) = [line for line in log if line.get("trace_id") == TRACE.decode().split("-")[1]]
    assert (refused["product_id"], refused["version"], refused["stage"]) == ("bad", 3, "decode")
    assert refused["offset"] >= 0

"""The consumer loop on a real broker, with kafka-python's own bookkeeping."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from kafka.admin import NewTopic

from sagelift.stack.kafka import KafkaBroker
from streaming.consumer.loop import ConsumerLoop, Pacing
from streaming.kafka.connection import Connection
from tests.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(150)]

PARTITIONS, RECORDS = 8, 1_000


def test_a_handler_that_outlasts_the_keep_alive_polls_still_gets_every_record(
    kafka: KafkaBroker, tmp_path: Path
) -> None:
    """kafka-python parks the fetched records of a paused partition and, without `unpark`, never returns them."""
    connection = Connection(kafka.bootstrap)
    admin = connection.admin()
    topic = f"slow-{time.time_ns()}"
    admin.create_topics([NewTopic(topic, PARTITIONS, 1)])
    admin.close()
    producer = connection.producer()
    for number in range(RECORDS):
        producer.send(topic, value=b"%d" % number, partition=number % PARTITIONS)
    producer.flush()
    producer.close()
    seen: set[bytes] = set()
    stop = threading.Event()
    consumer = connection.consumer(f"group-{topic}", max_poll_records=64)
    polls, poll = [0], consumer.poll

    def counted_poll(*arguments: Any, **options: Any) -> Any:
        polls[0] += 1
        return poll(*arguments, **options)

    consumer.poll = counted_poll

    def handle(records: Any) -> None:
        if len(seen) < RECORDS // 3:  # the work of a slow machine: it lasts for two keep-alive polls
            before = polls[0]
            wait_until(lambda: polls[0] >= before + 2, "two keep-alive polls")
        seen.update(r.value for part in records.values() for r in part)
        if len(seen) == RECORDS:
            stop.set()

    def unreadable(*_: Any) -> None:
        raise AssertionError("nothing here is damaged")

    loop = ConsumerLoop(
        consumer,
        topic,
        {"work": handle},
        retryable=(ConnectionError,),
        unreadable=unreadable,
        pacing=Pacing(keep_alive_s=0.1),
    )
    timer = threading.Timer(60, stop.set)
    timer.start()
    loop.run(stop)
    timer.cancel()
    assert len(seen) == RECORDS

"""Which letters were replayed: read from `dlq.replayed`, where letters that no longer exist get tombstones."""

from __future__ import annotations

from typing import Any

import pytest

from streaming.dead_letters.letters import LetterId
from streaming.dead_letters.reader import DeadLetterReader
from streaming.dead_letters.replay_log import ReplayLog, find_replayed
from tests.streaming.dead_letters.fakes import FakeBroker

TOPIC = "catalog.updates.dlq"


@pytest.fixture
def broker() -> FakeBroker:
    broker = FakeBroker(TOPIC, "events.dlq", "dlq.replayed")
    for _ in range(3):
        broker.logs[TOPIC].append(key=b"k", value=b"v")
    return broker


def open_reader(broker: Any) -> DeadLetterReader:
    return DeadLetterReader(broker)


def open_log(broker: Any) -> ReplayLog:
    return ReplayLog(broker, open_reader(broker))


def record_replay(broker: FakeBroker, offset: int, value: bytes | None = b"catalog.updates/0:9") -> bytes:
    key = open_log(broker).key(LetterId(TOPIC, 0, offset))
    broker.logs["dlq.replayed"].append(key=key, value=value)
    return key


def test_a_recorded_letter_was_replayed_and_the_others_were_not(broker: FakeBroker) -> None:
    assert record_replay(broker, 1) == b"catalog.updates.dlq/0:1/id-of-catalog.updates.dlq"
    log = open_log(broker)
    assert [LetterId(TOPIC, 0, offset) in log for offset in range(3)] == [False, True, False]
    log.add(LetterId(TOPIC, 0, 2))
    assert LetterId(TOPIC, 0, 2) in log


def test_without_its_topic_nothing_was_replayed() -> None:
    broker = FakeBroker(TOPIC, "events.dlq")
    broker.logs[TOPIC].append(key=b"k", value=b"v")
    assert LetterId(TOPIC, 0, 0) not in open_log(broker)


def test_a_deleted_letter_is_outdated_until_it_has_a_tombstone(broker: FakeBroker) -> None:
    key = record_replay(broker, 0)
    broker.logs[TOPIC].delete_before(1)
    log = open_log(broker)
    assert LetterId(TOPIC, 0, 0) not in log
    assert log.take_outdated() == [key]
    assert log.take_outdated() == [], "each key is returned once"
    record_replay(broker, 0, None)
    assert open_log(broker).take_outdated() == []


def test_the_letters_of_a_topic_that_was_created_again_were_not_replayed(broker: FakeBroker) -> None:
    key = record_replay(broker, 1)
    broker.topic_ids[TOPIC] = "another"
    log = open_log(broker)
    assert LetterId(TOPIC, 0, 1) not in log
    assert log.take_outdated() == [key]


@pytest.mark.parametrize("key", [None, b"", b"\xff", b"no id/x", b"other.dlq/0:1/id"])
def test_a_record_of_somebody_else_is_ignored(broker: FakeBroker, key: bytes | None) -> None:
    broker.logs["dlq.replayed"].append(key=key, value=b"x")
    assert open_log(broker).take_outdated() == []


def test_the_last_replay_of_a_letter_is_found(broker: FakeBroker) -> None:
    reader = open_reader(broker)
    letter = reader.get(LetterId(TOPIC, 0, 1))
    assert find_replayed(broker, reader, letter) is None  # type: ignore[arg-type]
    for place in (b"catalog.updates/0:7", b"catalog.updates/0:8"):
        record_replay(broker, 1, place)
    record_replay(broker, 2, b"catalog.updates/0:9")
    replayed = find_replayed(broker, reader, letter)  # type: ignore[arg-type]
    assert replayed is not None
    assert replayed.to == "catalog.updates/0:8"
    assert replayed.time.timestamp() * 1000 == broker.logs["dlq.replayed"].records[1].timestamp

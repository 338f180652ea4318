"""What a dead letter says, which letters are meant, and the few causes behind many."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from streaming.dead_letters import causes as dead_letter_causes
from streaming.dead_letters.causes import causes, shape
from streaming.dead_letters.reader import (
    DeadLetterReader,
    Letter,
    LetterId,
    Wanted,
    read_range,
    readable,
    source_topic,
)
from streaming.errors import BrokerError, DeadLetterError
from streaming.kafka.connection import CorruptRecordError, KafkaError, TopicPartition
from streaming.kafka.topics import TOPICS, dead_letter_topic
from tests.streaming.fakes import NOW, Record

ERRORS = "__connect.errors."
TP = TopicPartition("catalog.updates.dlq", 0)


def letter(offset: int = 0, *, after: float = 0, key: bytes | None = b"p", **facts: str) -> Letter:
    names = {"error": "exception.class.name", "message": "exception.message", "group": "consumer.group"}
    headers = [(ERRORS + names.get(name, name), value.encode()) for name, value in facts.items()]
    return Letter(LetterId(*TP, offset), NOW + timedelta(seconds=after), key, b"{", headers)


@pytest.mark.parametrize("id", [LetterId("catalog.updates.dlq", 0, 17), LetterId("a-b_c.dlq", 12, 2**59)])
def test_an_id_is_read_as_it_is_printed(id: LetterId) -> None:
    assert LetterId.parse(f" {id}\n") == id


@pytest.mark.parametrize(
    "text",
    ["", "17", "catalog.updates.dlq", "t/0", "t/0:", "t/-1:5", "t/0:x", "t/0:5:6", "/0:1", "t/٣:1", "t/0:" + "9" * 40],
)
def test_a_malformed_id_is_shown_with_what_one_looks_like(text: str) -> None:
    with pytest.raises(DeadLetterError, match=r"looks like catalog\.updates\.dlq/0:17"):
        LetterId.parse(text)


def test_a_letter_says_what_its_headers_say() -> None:
    record = Record(topic="events.dlq", partition=1, offset=2, timestamp=1_700_000_000_123, key=b"k", headers=[
        ("own", b"x"), (ERRORS + "stage", b"store"), (ERRORS + "exception.class.name", b"ContractError"),
        (ERRORS + "exception.message", "zu groß \xff".encode()), (ERRORS + "attempts", b"3"),
        (ERRORS + "partition", b"7"), (ERRORS + "offset", b"99"), (ERRORS + "topic", b"forged"),
        ("sagelift-truncated-from", b"5000000"),
    ])  # fmt: skip
    found = Letter.of(record)
    assert str(found.id) == "events.dlq/1:2"
    assert found.time == datetime(2023, 11, 14, 22, 13, 20, 123_000, tzinfo=UTC)
    assert (found.stage, found.error, found.message, found.attempts) == ("store", "ContractError", "zu groß ÿ", 3)
    assert (found.source, found.source_offset) == (TopicPartition("events", 7), 99), "the topic is never a header's"
    assert found.cut_from == 5_000_000


@pytest.mark.parametrize("forged", [b"", b"-1", b"many", b"\xff", b"9" * 30, "٣".encode(), None])
def test_headers_that_somebody_forged_say_nothing(forged: bytes | None) -> None:
    names = [ERRORS + n for n in ("attempts", "partition", "offset")] + ["sagelift-truncated-from"]
    found = Letter(LetterId(*TP, 0), NOW, None, None, [(name, forged) for name in names])
    assert (found.attempts, found.source, found.source_offset, found.cut_from) == (None, None, None, None)
    assert (found.stage, found.error, found.message) == ("", "", "")


@pytest.mark.parametrize(
    ("wanted", "offsets"),
    [
        (Wanted(), [0, 1, 2]),
        (Wanted(stages=["image"]), [1]),
        (Wanted(stages=["image", "decode"]), [0, 1]),
        (Wanted(errors=["ContractError"]), [0, 2]),
        (Wanted(keys=["0xff"]), [1]),
        (Wanted(keys=["p", ""]), [0, 2]),
        (Wanted(match="NOT found"), [1]),
        (Wanted(since=NOW + timedelta(seconds=1)), [1, 2]),
        (Wanted(until=NOW + timedelta(seconds=1)), [0]),
        (Wanted(max_attempts=1), [0, 2]),
        (Wanted(stages=["decode"], match="not found"), []),
    ],
)
def test_every_filter_keeps_its_letters_and_all_must_agree(wanted: Wanted, offsets: list[int]) -> None:
    letters = [
        letter(0, stage="decode", error="ContractError", message="title", attempts="1"),
        letter(1, after=1, key=b"\xff", stage="image", error="ImageError", message="404 Not Found", attempts="2"),
        letter(2, after=2, key=None, stage="store", error="ContractError"),
    ]
    assert [found.id.offset for found in letters if wanted(found)] == offsets


def test_bytes_are_shown_as_text_or_in_hex() -> None:
    assert (readable("é".encode()), readable(b"\x00\xff"), readable(None)) == ("é", "0x00ff", "")


def test_every_dead_letter_topic_leads_back_to_its_source() -> None:
    letters = [topic.name for topic in TOPICS if topic.name.endswith(".dlq")]
    assert len(letters) == 2
    assert all(dead_letter_topic(source_topic(name)) == name for name in letters)


# Reading.


class FakeConsumer:
    """One partition; an offset that is an error is raised, as kafka-python does, until it is passed by a seek."""

    def __init__(self, log: dict[int, Exception | None], end: int) -> None:
        self.log, self.end, self.at = log, end, 0

    def assign(self, partitions: list[TopicPartition]) -> None:
        assert partitions == [TP]

    def seek(self, tp: TopicPartition, offset: int) -> None:
        self.at = offset

    def poll(self, timeout_ms: int) -> dict[TopicPartition, list[Record]]:
        rows = []
        while self.at < self.end:
            found = self.log.get(self.at)
            if isinstance(found, Exception):
                if rows:
                    break
                raise found
            if self.at in self.log:
                rows.append(Record(*TP, self.at))
            self.at += 1
        return {TP: rows} if rows else {}

    def position(self, tp: TopicPartition, timeout_ms: int) -> int:
        return self.at


def offsets(consumer: Any, start: int, end: int) -> list[int]:
    return [record.offset for record in read_range(consumer, TP, start, end)]


def test_reading_ends_where_it_is_told_though_more_is_there_and_offsets_are_missing() -> None:
    consumer = FakeConsumer({0: None, 1: None, 4: None, 5: None, 9: None}, 10)
    assert offsets(consumer, 1, 5) == [1, 4]
    assert offsets(consumer, 2, 4) == [], "the marker of a transaction, or a compacted record"
    assert offsets(consumer, 3, 3) == []


def test_bytes_that_cannot_be_read_are_passed_and_named(caplog: pytest.LogCaptureFixture) -> None:
    consumer = FakeConsumer({0: None, 1: CorruptRecordError(), 2: CorruptRecordError(), 3: None}, 4)
    assert offsets(consumer, 0, 4) == [0, 3]
    assert [record.getMessage() for record in caplog.records] == [
        f"catalog.updates.dlq/0:{offset} cannot be read from the broker's log" for offset in (1, 2)
    ]


def test_a_broker_that_falls_silent_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streaming.dead_letters.reader._SILENT_S", -1)
    with pytest.raises(BrokerError, match="has given nothing"):
        offsets(FakeConsumer({0: None}, 1), 0, 2)


def test_a_broker_that_refuses_is_told() -> None:
    with pytest.raises(BrokerError, match=r"catalog\.updates\.dlq cannot be read: KafkaError"):
        offsets(FakeConsumer({0: KafkaError()}, 1), 0, 1)


def test_the_newest_are_found_over_windows_and_partitions() -> None:
    """Against the plain way: sort everything, take the first."""
    partitions = {TopicPartition("catalog.updates.dlq", 0): 2500, TopicPartition("events.dlq", 0): 40}
    log = {
        tp: [Letter(LetterId(*tp, o), NOW + timedelta(seconds=o * 2500 // end), b"k", b"v" * 9, ()) for o in range(end)]
        for tp, end in partitions.items()
    }
    reads: list[tuple[int, int]] = []

    class Reader(DeadLetterReader):
        def __init__(self) -> None:
            self.first, self.end = dict.fromkeys(partitions, 0), partitions

        def _read(self, tp: TopicPartition, start: int, end: int) -> Any:
            reads.append((start, end))
            return iter(log[tp][start:end])

    def wanted(letter: Letter) -> bool:
        return letter.id.offset % 30 == 0

    plain = sorted((x for part in log.values() for x in part if wanted(x)), key=lambda x: (x.time, x.id), reverse=True)
    for limit in (1, 33, 34, 60, 500):
        assert [found.id for found in Reader().newest(wanted, limit)] == [x.id for x in plain[:limit]]
    assert all(found.value is None for found in Reader().newest(wanted, 5)), "a table holds no values"
    reads.clear()
    Reader().newest(lambda letter: True, 50)
    assert reads == [(1500, 2500), (0, 40)], "the last of many need not read them all"


# Causes.


def test_messages_that_differ_in_their_values_are_one_cause() -> None:
    assert shape("price.amount: -3.50 must be at least 0") == shape("price.amount: 12 must be at least 0")
    assert shape("https://a/1.jpg: 404 Not Found") == shape("https://b/2/3.png: 404 Not Found")
    assert shape("currency: 'XYZ' is not active") == shape("currency: 'QQQ' is not active")
    assert shape("title: too long") != shape("brand: too long")
    assert shape("the shop's price isn't known") == "the shop's price isn't known", "an apostrophe quotes nothing"


def test_causes_are_counted_the_most_frequent_first_with_one_to_look_at() -> None:
    letters = [letter(n, after=n, stage="decode", error="E", message=f"price: -{n}") for n in range(5)]
    letters += [letter(9, after=-5, stage="image", error="E", message="price: -1")]
    first, second = causes(letters)
    assert (first.topic, first.stage, first.error, first.message) == ("catalog.updates", "decode", "E", "price: …")
    assert (first.letters, first.first, first.last) == (5, NOW, NOW + timedelta(seconds=4))
    assert first.newest == letters[4].id
    assert (second.stage, second.letters) == ("image", 1)


def test_causes_beyond_counting_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letter_causes, "_MOST", 3)
    words = ["title", "brand", "color", "size", "pattern", "title"]
    found = causes(letter(n, stage="decode", message=word) for n, word in enumerate(words))
    assert [(cause.message, cause.letters) for cause in found] == [
        ("(other messages)", 2), ("title", 2), ("brand", 1), ("color", 1),
    ]  # fmt: skip

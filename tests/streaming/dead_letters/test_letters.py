"""What a stored dead letter says, its id, and which letters a filter selects."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from streaming.contracts import ERROR_HEADERS
from streaming.dead_letters.letters import Letter, LetterFilter, LetterId, readable, source_topic
from streaming.errors import DeadLetterError
from streaming.kafka.connection import TopicPartition
from streaming.kafka.topics import TOPICS, dead_letter_topic
from tests.streaming.builders import NOW, Record
from tests.streaming.dead_letters.builders import TP, letter


@pytest.mark.parametrize("id", [LetterId("catalog.updates.dlq", 0, 17), LetterId("a-b_c.dlq", 12, 2**59)])
def test_an_id_is_read_as_it_is_printed(id: LetterId) -> None:
    assert LetterId.parse(f" {id}\n") == id


@pytest.mark.parametrize(
    "text",
    ["", "17", "catalog.updates.dlq", "t/0", "t/0:", "t/-1:5", "t/0:x", "t/0:5:6", "/0:1", "t/٣:1", "t/0:" + "9" * 40],
)
def test_a_malformed_id_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(DeadLetterError, match=r"looks like catalog\.updates\.dlq/0:17"):
        LetterId.parse(text)


def test_a_letter_says_what_its_headers_say() -> None:
    record = Record(topic="events.dlq", partition=1, offset=2, timestamp=1_700_000_000_123, key=b"k", headers=[
        ("own", b"x"), (ERROR_HEADERS + "stage", b"store"), (ERROR_HEADERS + "exception.class.name", b"ContractError"),
        (ERROR_HEADERS + "exception.message", "zu groß \xff".encode()), (ERROR_HEADERS + "attempts", b"3"),
        (ERROR_HEADERS + "partition", b"7"), (ERROR_HEADERS + "offset", b"99"), (ERROR_HEADERS + "topic", b"forged"),
        ("sagelift-truncated-from", b"5000000"),
    ])  # fmt: skip
    stored = Letter.of(record)
    assert str(stored.id) == "events.dlq/1:2"
    assert stored.time == datetime(2023, 11, 14, 22, 13, 20, 123_000, tzinfo=UTC)
    assert (stored.stage, stored.error, stored.message, stored.attempts) == ("store", "ContractError", "zu groß ÿ", 3)
    assert (stored.source, stored.source_offset) == (TopicPartition("events", 7), 99), "the topic is never a header's"
    assert stored.cut_from == 5_000_000


@pytest.mark.parametrize("forged", [b"", b"-1", b"many", b"\xff", b"9" * 30, "٣".encode(), None])
def test_forged_headers_are_ignored(forged: bytes | None) -> None:
    names = [ERROR_HEADERS + n for n in ("attempts", "partition", "offset")] + ["sagelift-truncated-from"]
    stored = Letter(LetterId(*TP, 0), NOW, None, None, [(name, forged) for name in names])
    assert (stored.attempts, stored.source, stored.source_offset, stored.cut_from) == (None, None, None, None)
    assert (stored.stage, stored.error, stored.message) == ("", "", "")


@pytest.mark.parametrize(
    ("selects", "offsets"),
    [
        (LetterFilter(), [0, 1, 2]),
        (LetterFilter(stages=["image"]), [1]),
        (LetterFilter(stages=["image", "decode"]), [0, 1]),
        (LetterFilter(errors=["ContractError"]), [0, 2]),
        (LetterFilter(keys=["0xff"]), [1]),
        (LetterFilter(keys=["p", ""]), [0, 2]),
        (LetterFilter(match="NOT found"), [1]),
        (LetterFilter(since=NOW + timedelta(seconds=1)), [1, 2]),
        (LetterFilter(until=NOW + timedelta(seconds=1)), [0]),
        (LetterFilter(max_attempts=1), [0, 2]),
        (LetterFilter(stages=["decode"], match="not found"), []),
    ],
)
def test_every_filter_keeps_its_letters_and_all_must_agree(selects: LetterFilter, offsets: list[int]) -> None:
    letters = [
        letter(0, stage="decode", error="ContractError", message="title", attempts="1"),
        letter(1, after=1, key=b"\xff", stage="image", error="ImageError", message="404 Not Found", attempts="2"),
        letter(2, after=2, key=None, stage="store", error="ContractError"),
    ]
    assert [one.id.offset for one in letters if selects(one)] == offsets


def test_bytes_are_shown_as_text_or_in_hex() -> None:
    assert (readable("é".encode()), readable(b"\x00\xff"), readable(None)) == ("é", "0x00ff", "")


def test_every_dead_letter_topic_leads_back_to_its_source() -> None:
    letters = [topic.name for topic in TOPICS if topic.name.endswith(".dlq")]
    assert len(letters) == 2
    assert all(dead_letter_topic(source_topic(name)) == name for name in letters)

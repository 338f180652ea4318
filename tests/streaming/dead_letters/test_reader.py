"""Reading stored letters: filtered, the newest, one by its id, and the original of one that was cut."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from streaming.contracts import ERROR_HEADERS, TRUNCATED_HEADER
from streaming.dead_letters.letters import Letter, LetterFilter, LetterId
from streaming.dead_letters.reader import DeadLetterReader, newest_letters
from streaming.errors import DeadLetterError, TopicError
from streaming.kafka.connection import TopicPartition
from tests.streaming.builders import NOW
from tests.streaming.dead_letters.fakes import FakeBroker

ENDS = {TopicPartition("catalog.updates.dlq", 0): 2500, TopicPartition("events.dlq", 0): 40}
LOG = {
    tp: [Letter(LetterId(*tp, o), NOW + timedelta(seconds=o * 2500 // end), b"k", b"v" * 9, ()) for o in range(end)]
    for tp, end in ENDS.items()
}
RANGES = {tp: (0, end) for tp, end in ENDS.items()}


def read(tp: TopicPartition, start: int, end: int) -> Iterator[Letter]:
    return iter(LOG[tp][start:end])


def every_thirtieth(letter: Letter) -> bool:
    return letter.id.offset % 30 == 0


def test_the_newest_are_found_over_windows_and_partitions() -> None:
    """Compared with the plain way: sort everything, take the first."""
    selected = [letter for letters in LOG.values() for letter in letters if every_thirtieth(letter)]
    selected.sort(key=lambda letter: (letter.time, letter.id), reverse=True)
    for limit in (1, 33, 34, 60, 500):
        newest = newest_letters(RANGES, read, every_thirtieth, limit)
        assert [letter.id for letter in newest] == [letter.id for letter in selected[:limit]]
    assert all(letter.value is None for letter in newest_letters(RANGES, read, every_thirtieth, 5))


def test_the_window_does_not_change_the_result() -> None:
    default = newest_letters(RANGES, read, every_thirtieth, 20)
    for window in (1, 3, 5000):
        assert newest_letters(RANGES, read, every_thirtieth, 20, window) == default


def test_the_last_letters_of_many_are_found_without_reading_all() -> None:
    reads: list[tuple[int, int]] = []

    def watched(tp: TopicPartition, start: int, end: int) -> Iterator[Letter]:
        reads.append((start, end))
        return read(tp, start, end)

    newest_letters(RANGES, watched, lambda letter: True, 50)
    assert reads == [(1500, 2500), (0, 40)]


def reader_of(broker: Any) -> DeadLetterReader:
    return DeadLetterReader(broker, ["events"])


@pytest.fixture
def broker() -> FakeBroker:
    """Five letters of `events`, of which the first two were deleted; each is one second after the one before."""
    broker = FakeBroker("events", "events.dlq")
    for n in range(5):
        broker.logs["events.dlq"].append(key=f"u{n}".encode(), value=b"v")
    broker.logs["events.dlq"].delete_before(2)
    return broker


def test_letters_are_read_from_a_time_on_and_filtered(broker: FakeBroker) -> None:
    with reader_of(broker) as reader:
        assert [letter.id.offset for letter in reader.letters(LetterFilter())] == [2, 3, 4]
        third = datetime.fromtimestamp(broker.logs["events.dlq"].records[1].timestamp / 1000, UTC)
        assert [letter.id.offset for letter in reader.letters(LetterFilter(), third)] == [3, 4]
        assert [letter.id.offset for letter in reader.letters(LetterFilter(keys=["u3"]))] == [3]
        assert [letter.id.offset for letter in reader.newest(LetterFilter(), 2)] == [4, 3]


def test_letters_written_after_the_reader_was_opened_are_not_read(broker: FakeBroker) -> None:
    with reader_of(broker) as reader:
        broker.logs["events.dlq"].append(key=b"late", value=b"v")
        assert [letter.id.offset for letter in reader.letters(LetterFilter())] == [2, 3, 4]


def test_a_missing_topic_is_named() -> None:
    with pytest.raises(TopicError, match=r"topic events\.dlq does not exist"):
        reader_of(FakeBroker("events"))


@pytest.mark.parametrize(
    ("id", "reason"),
    [
        (LetterId("orders.dlq", 0, 2), r"orders\.dlq is not a dead-letter topic; the topics are events\.dlq"),
        (LetterId("events.dlq", 3, 2), r"events\.dlq has no partition 3"),
        (LetterId("events.dlq", 0, 1), r"holds offsets 2 to 4; the broker deletes letters"),
        (LetterId("events.dlq", 0, 5), r"holds offsets 2 to 4"),
    ],
)
def test_an_id_without_a_letter_is_refused_with_the_reason(broker: FakeBroker, id: LetterId, reason: str) -> None:
    with reader_of(broker) as reader:
        assert reader.get(LetterId("events.dlq", 0, 2)).key == b"u2"
        with pytest.raises(DeadLetterError, match=reason):
            reader.get(id)


@pytest.mark.parametrize(
    ("key", "value", "whole"),
    [
        (b"u", b"beginning and end", True),
        (b"other", b"beginning and end", False),
        (b"u", b"beginning and end, longer", False),
        (b"u", b"something else...", False),
    ],
)
def test_the_original_of_a_cut_letter_is_returned_only_if_it_is_the_same_message(
    broker: FakeBroker, key: bytes, value: bytes, whole: bool
) -> None:
    offset = broker.logs["events"].append(key=key, value=value)
    facts = [(ERROR_HEADERS + "partition", b"0"), (ERROR_HEADERS + "offset", str(offset).encode())]
    cut = [*facts, (TRUNCATED_HEADER, b"17")]
    with reader_of(broker) as reader:
        letter = Letter(LetterId("events.dlq", 0, 9), NOW, b"u", b"beginning", cut)
        assert reader.original(letter) == (value if whole else None)
        broker.logs["events"].delete_before(offset + 1)
        assert reader.original(letter) is None

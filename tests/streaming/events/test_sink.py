"""Events into SQL: each once, offsets with their rows, and only bad events become dead letters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from feature_repo.errors import StoreBusyError
from feature_repo.recent import Engagement
from streaming.consumer.poison import PoisonGuard, PoisonLimit
from streaming.contracts import Event
from streaming.dead_letters.writer import FailedRecord
from streaming.errors import BrokerError, PoisonRateError
from streaming.events.conversion import to_row
from streaming.events.sink import EventSink
from streaming.kafka.codec import JSON
from streaming.kafka.connection import TopicPartition
from tests.streaming.builders import NOW, Record
from tests.streaming.events.fakes import FakeDatabase


class FakeConsumer:
    """The ends of the partitions assigned to it."""

    def __init__(self, **ends: tuple[int, int]) -> None:
        self.ends = {TopicPartition("events", int(name[1:])): end for name, end in ends.items()}

    def assignment(self) -> set[TopicPartition]:
        return set(self.ends)

    def beginning_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return {tp: self.ends[tp][0] for tp in partitions}

    def end_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return {tp: self.ends[tp][1] for tp in partitions}


class Sent:
    def __init__(self) -> None:
        self.letters: list[FailedRecord] = []
        self.down = False

    def __call__(self, letters: Sequence[FailedRecord]) -> None:
        if self.down:
            raise BrokerError("not available")
        self.letters += letters

    @property
    def where(self) -> list[tuple[int, int, str]]:
        return [(letter.record.partition, letter.record.offset, letter.stage) for letter in self.letters]


def click(number: int, **fields: Any) -> Event:
    return Event(
        event_id=f"e{number}", kind="click", unit_id="u", event_time=NOW, product_id="p", surface="user", **fields
    )


def poll(*parts: Sequence[Event | bytes]) -> dict[TopicPartition, list[Record]]:
    """One list of messages for each partition."""
    return {
        TopicPartition("events", p): [
            Record("events", p, offset, value=m if isinstance(m, bytes) else JSON.encode(m))
            for offset, m in enumerate(part)
        ]
        for p, part in enumerate(parts)
    }


def sink() -> tuple[EventSink, FakeDatabase, Sent]:
    database, sent = FakeDatabase(), Sent()
    return EventSink(database, sent, "log", JSON, lambda: NOW), database, sent


def test_rows_and_offsets_are_written_together_and_a_duplicate_counts_once() -> None:
    events, database, sent = sink()
    batch = poll([click(1), click(2), click(1)], [click(3)])
    events.handle(batch)
    assert sorted(database.rows) == ["e1", "e2", "e3"]
    assert database.written_offsets == {("events", 0): 3, ("events", 1): 1}
    assert database.transactions == 1
    events.handle(batch)
    assert sorted(database.rows) == ["e1", "e2", "e3"]
    assert dict(+events.counts) == {"written": 3, "duplicate": 5}
    assert sent.letters == []


def test_undecodable_and_rejected_records_become_dead_letters() -> None:
    events, database, sent = sink()
    unknown = Event(
        event_id="x", kind="exposure", unit_id="u", event_time=NOW, experiment="unknown", arm="a", config_version=1
    )
    events.handle(poll([click(1), b"{", unknown, click(2)]))
    assert sent.where == [(0, 1, "decode"), (0, 2, "store")]
    assert sorted(database.rows) == ["e1", "e2"]
    assert database.written_offsets == {("events", 0): 4}


def test_a_batch_of_bad_records_moves_the_offsets() -> None:
    events, database, sent = sink()
    events.handle(poll([b"{", b"["]))
    assert len(sent.letters) == 2
    assert database.written_offsets == {("events", 0): 2}


def test_offsets_do_not_move_unless_the_dead_letters_are_sent() -> None:
    events, database, sent = sink()
    sent.down = True
    with pytest.raises(BrokerError):
        events.handle(poll([click(1), b"{"]))
    assert (database.rows, database.written_offsets) == ({}, {})


def test_dead_letters_are_sent_before_the_transaction_begins() -> None:
    """A slow broker must not keep the database locked."""
    events, database, sent = sink()
    sent.down = True
    with pytest.raises(BrokerError):
        events.handle(poll([click(1), b"{"]))
    assert database.transactions == 0


def test_the_sink_resumes_at_the_stored_offset_of_this_log_only() -> None:
    events, database, _ = sink()
    database.logs = {"log": {("events", 0): 7}, "of another cluster": {("events", 1): 90}}
    assert events.start_offsets(FakeConsumer(p0=(0, 9), p1=(0, 100)), "events") == {0: 7}


@pytest.mark.parametrize("held", [(8, 20), (0, 5)])
def test_an_offset_that_the_log_does_not_have_is_logged_and_the_partition_is_read_again(
    held: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    """The offset was deleted before it was read, or the broker lost it. Otherwise a crash could skip events."""
    events, database, _ = sink()
    database.logs = {"log": {("events", 0): 7, ("events", 1): 3}}
    assert events.start_offsets(FakeConsumer(p0=held, p1=(0, 3)), "events") == {1: 3}
    assert database.written_offsets == {("events", 1): 3}
    (entry,) = caplog.records
    assert (entry.levelname, "continues at 7" in entry.message) == ("ERROR", True)


def test_an_unavailable_database_makes_no_dead_letters() -> None:
    events, database, sent = sink()
    database.down = True
    with pytest.raises(OperationalError):
        events.handle(poll([click(1), click(2)]))
    assert database.transactions == 1, "halving would not help"
    assert sent.letters == []


def test_a_row_that_the_database_refuses_is_found_and_all_others_are_written() -> None:
    events, database, sent = sink()
    bad = click(5, query="too much for the engine")
    events.handle(poll([click(1), b"{", click(2), click(3)], [click(4), bad, click(6)]))
    assert sorted(database.rows) == ["e1", "e2", "e3", "e4", "e6"]
    assert sorted(sent.where) == [(0, 1, "decode"), (1, 1, "store")]
    assert database.written_offsets == {("events", 0): 4, ("events", 1): 3}
    assert events.counts["dead_letters"] == 2


def test_unknown_fields_are_counted() -> None:
    events, database, _ = sink()
    events.handle(poll([JSON.encode(click(1))[:-1] + b',"session":1}']))
    assert list(database.rows) == ["e1"]
    assert events.unknown_fields == {"session": 1}


class RecordingObserver:
    """An observer that remembers what it gets."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.letters: Counter[str] = Counter()
        self.ages: list[float] = []

    def counted(self, counts: Mapping[str, int]) -> None:
        self.counts.update(counts)

    def dead_letters(self, by_stage: Mapping[str, int]) -> None:
        self.letters.update(by_stage)

    def fresh(self, milliseconds: Sequence[float]) -> None:
        self.ages += milliseconds


def test_an_observer_gets_each_batch_once() -> None:
    events, _, _ = sink()
    observer = events.observer = RecordingObserver()  # type: ignore[assignment]
    events.handle(poll([click(1), b"{", click(2)]))
    events.handle(poll([click(2), click(3, experiment="unknown", arm="a", config_version=1)]))
    assert observer.counts == {"written": 2, "duplicate": 1}
    assert observer.letters == {"decode": 1, "store": 1}
    assert len(observer.ages) == 3, "one for each written or duplicate event"


def test_too_many_bad_messages_stop_the_sink_before_any_dead_letter() -> None:
    events, database, sent = sink()
    events.poison = PoisonGuard("events", PoisonLimit(least=20))
    with pytest.raises(PoisonRateError, match=r"events: 15 of the last 20 .*SHARE=1"):
        events.handle(poll([b"{"] * 15 + [click(n) for n in range(5)]))
    assert (sent.letters, database.rows, database.written_offsets) == ([], {}, {})


def test_engagements_are_passed_on_before_the_offsets_move() -> None:
    events, database, _ = sink()
    received: list[Engagement] = []
    order = Event(
        event_id="o", kind="order", unit_id="v", event_time=NOW, product_id="q", order_id="1", amount_minor=5,
        currency="EUR",
    )  # fmt: skip
    shown = Event(event_id="i", kind="impression", unit_id="u", event_time=NOW, product_id="r", surface="user")

    def receive(engagements: Sequence[Engagement]) -> None:
        assert database.transactions == 0, "a crash now sends them again"
        received.extend(engagements)

    events.recent = receive
    events.handle(poll([click(1), shown, b"{", order]))
    at = to_row(click(1)).event_time
    assert received == [Engagement("u", "p", at), Engagement("v", "q", at)]
    assert len(database.rows) == 3


def test_offsets_do_not_move_unless_engagements_are_written() -> None:
    events, database, _ = sink()

    def locked(_: Sequence[Engagement]) -> None:
        raise StoreBusyError("locked")

    events.recent = locked
    with pytest.raises(StoreBusyError):
        events.handle(poll([click(1)]))
    assert (database.rows, database.written_offsets) == ({}, {})


def test_a_batch_without_engagements_forwards_none() -> None:
    events, _, _ = sink()
    events.recent = lambda _: pytest.fail("called")
    events.handle(poll([b"{"]))

"""Events into SQL: each once, offsets with their rows, a bad one to the dead letters and nobody else with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.exc import DataError, OperationalError

from experiments.event_rows import EventRow
from experiments.event_writer import Rejected, WriteResult
from feature_repo.errors import StoreBusyError
from feature_repo.recent import Engagement
from streaming.consumer.poison import PoisonGuard, PoisonLimit
from streaming.contracts import Event
from streaming.dead_letters.writer import DeadLetter
from streaming.errors import BrokerError, PoisonRateError
from streaming.events.sink import EventSink, to_event, to_row
from streaming.kafka.codec import JSON
from streaming.kafka.connection import TopicPartition
from tests.streaming.builders import NOW, Record, decode_event


class FakeDatabase:
    """Rows by event id and offsets, all of a batch or nothing; raises for what its engine cannot take."""

    def __init__(self) -> None:
        self.rows: dict[str, EventRow] = {}
        self.logs: dict[str, dict[tuple[str, int], int]] = {}
        self.down = False
        self.transactions = 0

    @property
    def written_offsets(self) -> dict[tuple[str, int], int]:
        return self.logs.get("log", {})

    def rejected(self, rows: Sequence[EventRow]) -> tuple[Rejected, ...]:
        return tuple(Rejected(i, r, "no such experiment") for i, r in enumerate(rows) if r.experiment == "unknown")

    def write_events(self, rows: Sequence[EventRow], offsets: Mapping[tuple[str, int], int], log: str) -> WriteResult:
        self.transactions += 1
        if self.down:
            raise OperationalError("insert", {}, Exception("locked"))
        if any(row.query == "too much for the engine" for row in rows):
            raise DataError("insert", {}, Exception("out of range"))
        assert not self.rejected(rows), "what is rejected is known before the transaction"
        fresh = {r.event_id: r for r in rows if r.event_id not in self.rows}
        self.rows |= fresh
        self.logs.setdefault(log, {}).update(offsets)
        return WriteResult(len(fresh), len(rows) - len(fresh), ())

    def offsets(self, topic: str, log: str) -> dict[int, int]:
        return {partition: o for (name, partition), o in self.logs.get(log, {}).items() if name == topic}

    def forget_offsets(self, topic: str, log: str, partitions: Collection[int]) -> None:
        for partition in partitions:
            del self.logs[log][topic, partition]


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
        self.letters: list[DeadLetter] = []
        self.down = False

    def __call__(self, letters: Sequence[DeadLetter]) -> None:
        if self.down:
            raise BrokerError("away")
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


def test_rows_and_offsets_go_in_together_and_a_repetition_counts_once() -> None:
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


def test_what_cannot_be_decoded_and_what_the_store_rejects_become_dead_letters() -> None:
    events, database, sent = sink()
    unknown = Event(
        event_id="x", kind="exposure", unit_id="u", event_time=NOW, experiment="unknown", arm="a", config_version=1
    )
    events.handle(poll([click(1), b"{", unknown, click(2)]))
    assert sent.where == [(0, 1, "decode"), (0, 2, "store")]
    assert sorted(database.rows) == ["e1", "e2"]
    assert database.written_offsets == {("events", 0): 4}


def test_a_batch_of_nothing_but_poison_moves_on() -> None:
    events, database, sent = sink()
    events.handle(poll([b"{", b"["]))
    assert len(sent.letters) == 2
    assert database.written_offsets == {("events", 0): 2}


def test_offsets_do_not_move_unless_the_dead_letters_are_safe() -> None:
    events, database, sent = sink()
    sent.down = True
    with pytest.raises(BrokerError):
        events.handle(poll([click(1), b"{"]))
    assert (database.rows, database.written_offsets) == ({}, {})


def test_dead_letters_are_sent_before_the_transaction_begins() -> None:
    """A slow broker must not keep the database locked for everyone else."""
    events, database, sent = sink()
    sent.down = True
    with pytest.raises(BrokerError):
        events.handle(poll([click(1), b"{"]))
    assert database.transactions == 0


def test_reading_goes_on_at_the_stored_offset_of_this_log_only() -> None:
    events, database, _ = sink()
    database.logs = {"log": {("events", 0): 7}, "of another cluster": {("events", 1): 90}}
    assert events.start_offsets(FakeConsumer(p0=(0, 9), p1=(0, 100)), "events") == {0: 7}


@pytest.mark.parametrize("held", [(8, 20), (0, 5)])
def test_an_offset_that_the_log_does_not_have_is_told_and_all_is_read_again(
    held: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    """Deleted before it was read, or lost by the broker. Else a crash on the way back up would skip the rest."""
    events, database, _ = sink()
    database.logs = {"log": {("events", 0): 7, ("events", 1): 3}}
    assert events.start_offsets(FakeConsumer(p0=held, p1=(0, 3)), "events") == {1: 3}
    assert database.written_offsets == {("events", 1): 3}
    (told,) = caplog.records
    assert (told.levelname, "goes on at 7" in told.message) == ("ERROR", True)


def test_a_database_that_is_away_is_no_fault_of_the_rows() -> None:
    events, database, sent = sink()
    database.down = True
    with pytest.raises(OperationalError):
        events.handle(poll([click(1), click(2)]))
    assert database.transactions == 1, "halving would not help"
    assert sent.letters == []


def test_a_row_that_the_engine_cannot_take_is_found_and_all_others_go_in() -> None:
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


@given(st.datetimes(datetime(1970, 1, 1), datetime(2400, 1, 1), timezones=st.just(UTC)))
def test_an_event_survives_the_way_to_its_row_and_back_to_the_microsecond(at: datetime) -> None:
    event = Event(
        event_id="e", kind="impression", unit_id="u", event_time=at, product_id="p", surface="search", query="q"
    )
    assert to_event(to_row(event)) == event


def test_what_an_exposure_records_survives_the_way_to_kafka_and_back() -> None:
    told = {"country": "DE", "age": 30, "score": 1.5, "new": True}
    row = EventRow(
        event_id="e", kind="exposure", unit_id="u", event_time=1, experiment="x", arm="a", config_version=1,
        attributes=told,
    )  # fmt: skip
    assert to_row(decode_event(JSON.encode(to_event(row)), now=NOW)) == row


class Heard:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.letters: Counter[str] = Counter()
        self.waits: list[float] = []

    def counted(self, counts: Mapping[str, int]) -> None:
        self.counts.update(counts)

    def dead_letters(self, by_stage: Mapping[str, int]) -> None:
        self.letters.update(by_stage)

    def fresh(self, milliseconds: Sequence[float]) -> None:
        self.waits += milliseconds


def test_an_observer_hears_of_each_batch_once() -> None:
    events, _, _ = sink()
    heard = events.observer = Heard()  # type: ignore[assignment]
    events.handle(poll([click(1), b"{", click(2)]))
    events.handle(poll([click(2), click(3, experiment="unknown", arm="a", config_version=1)]))
    assert heard.counts == {"written": 2, "duplicate": 1}
    assert heard.letters == {"decode": 1, "store": 1}
    assert len(heard.waits) == 3, "of each event that went in, or was there"


def test_a_feed_of_garbage_stops_the_sink_before_any_dead_letter() -> None:
    events, database, sent = sink()
    events.poison = PoisonGuard("events", PoisonLimit(least=20))
    with pytest.raises(PoisonRateError, match=r"events: 15 of the last 20 .*SHARE=1"):
        events.handle(poll([b"{"] * 15 + [click(n) for n in range(5)]))
    assert (sent.letters, database.rows, database.written_offsets) == ([], {}, {})


def test_engagements_go_to_the_shoppers_lists_before_the_offsets_move() -> None:
    events, database, _ = sink()
    taken: list[Engagement] = []
    order = Event(
        event_id="o", kind="order", unit_id="v", event_time=NOW, product_id="q", order_id="1", amount_minor=5,
        currency="EUR",
    )  # fmt: skip
    shown = Event(event_id="i", kind="impression", unit_id="u", event_time=NOW, product_id="r", surface="user")

    def lists(engagements: Sequence[Engagement]) -> None:
        assert database.transactions == 0, "a crash now sends them again"
        taken.extend(engagements)

    events.recent = lists
    events.handle(poll([click(1), shown, b"{", order]))
    at = to_row(click(1)).event_time
    assert taken == [Engagement("u", "p", at), Engagement("v", "q", at)]
    assert len(database.rows) == 3


def test_offsets_do_not_move_unless_the_lists_are_written() -> None:
    events, database, _ = sink()

    def locked(_: Sequence[Engagement]) -> None:
        raise StoreBusyError("locked")

    events.recent = locked
    with pytest.raises(StoreBusyError):
        events.handle(poll([click(1)]))
    assert (database.rows, database.written_offsets) == ({}, {})


def test_a_batch_without_engagements_asks_nothing_of_the_lists() -> None:
    events, _, _ = sink()
    events.recent = lambda _: pytest.fail("called")
    events.handle(poll([b"{"]))

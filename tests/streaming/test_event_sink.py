"""Events into SQL: each once, offsets with their rows, a bad one to the dead letters and nobody else with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.exc import DataError, OperationalError

from experiments.events import EventRow
from experiments.sink import Rejected, WriteResult
from streaming.contracts import Event, encode
from streaming.dead_letters import DeadLetter
from streaming.errors import BrokerError
from streaming.event_sink import EventSink, to_event, to_row
from streaming.kafka import TopicPartition
from tests.streaming.fakes import NOW, Record


class FakeDatabase:
    """Rows by event id and offsets, all of a batch or nothing; raises for what its engine cannot take."""

    def __init__(self) -> None:
        self.rows: dict[str, EventRow] = {}
        self.offsets: dict[tuple[str, int], int] = {}
        self.down = False
        self.transactions = 0

    def write_events(
        self,
        rows: Sequence[EventRow],
        offsets: Mapping[tuple[str, int], int],
        before_commit: Callable[[WriteResult], None],
    ) -> WriteResult:
        self.transactions += 1
        if self.down:
            raise OperationalError("insert", {}, Exception("locked"))
        if any(row.query == "too much for the engine" for row in rows):
            raise DataError("insert", {}, Exception("out of range"))
        rejected = [Rejected(i, r, "no such experiment") for i, r in enumerate(rows) if r.experiment == "unknown"]
        good = {r.event_id: r for r in rows if r.experiment != "unknown"}
        fresh = {i: r for i, r in good.items() if i not in self.rows}
        result = WriteResult(len(fresh), len(rows) - len(fresh) - len(rejected), tuple(rejected))
        before_commit(result)
        self.rows |= fresh
        self.offsets |= offsets
        return result


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
            Record("events", p, offset, value=m if isinstance(m, bytes) else encode(m)) for offset, m in enumerate(part)
        ]
        for p, part in enumerate(parts)
    }


def sink() -> tuple[EventSink, FakeDatabase, Sent]:
    database, sent = FakeDatabase(), Sent()
    return EventSink(database, sent, lambda: NOW), database, sent


def test_rows_and_offsets_go_in_together_and_a_repetition_counts_once() -> None:
    events, database, sent = sink()
    batch = poll([click(1), click(2), click(1)], [click(3)])
    events.handle(batch)
    assert sorted(database.rows) == ["e1", "e2", "e3"]
    assert database.offsets == {("events", 0): 3, ("events", 1): 1}
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
    assert database.offsets == {("events", 0): 4}


def test_a_batch_of_nothing_but_poison_moves_on() -> None:
    events, database, sent = sink()
    events.handle(poll([b"{", b"["]))
    assert len(sent.letters) == 2
    assert database.offsets == {("events", 0): 2}


def test_offsets_do_not_move_unless_the_dead_letters_are_safe() -> None:
    events, database, sent = sink()
    sent.down = True
    with pytest.raises(BrokerError):
        events.handle(poll([click(1), b"{"]))
    assert (database.rows, database.offsets) == ({}, {})


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
    assert database.offsets == {("events", 0): 4, ("events", 1): 3}
    assert events.counts["dead_letters"] == 2


def test_unknown_fields_are_counted() -> None:
    events, database, _ = sink()
    events.handle(poll([encode(click(1))[:-1] + b',"session":1}']))
    assert list(database.rows) == ["e1"]
    assert events.unknown_fields == {"session": 1}


@given(st.datetimes(datetime(1970, 1, 1), datetime(2400, 1, 1), timezones=st.just(UTC)))
def test_an_event_survives_the_way_to_its_row_and_back_to_the_microsecond(at: datetime) -> None:
    event = Event(
        event_id="e", kind="impression", unit_id="u", event_time=at, product_id="p", surface="search", query="q"
    )
    assert to_event(to_row(event)) == event

"""Shop events -> SQL: validate, dedup by event id, offsets in the same transaction as the rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from sqlalchemy.exc import DataError, IntegrityError

from experiments.events import EventRow
from experiments.sink import WriteResult
from streaming.contracts import Event, decode_event
from streaming.dead_letters import DeadLetter
from streaming.errors import ContractError
from streaming.loop import Records

_EPOCH = datetime.fromtimestamp(0, UTC)
# What a database says of values, not of itself: the same rows will never go in.
_BLAMES_ROWS = (DataError, IntegrityError, OverflowError, UnicodeEncodeError)


class EventStore(Protocol):
    """The part of `experiments.store.ExperimentStore` that the sink needs."""

    def write_events(
        self,
        rows: Sequence[EventRow],
        offsets: Mapping[tuple[str, int], int],
        before_commit: Callable[[WriteResult], None],
    ) -> WriteResult: ...


class EventSink:
    """Handles batches of records of `events`.

    Dead letters are acknowledged before the transaction that moves the offsets commits: a crash in between sends one
    twice, never none.
    """

    def __init__(
        self,
        store: EventStore,
        dead_letters: Callable[[Sequence[DeadLetter]], None],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store, self._dead_letters, self._clock = store, dead_letters, clock
        self.counts: Counter[str] = Counter()
        self.unknown_fields: Counter[str] = Counter()

    def handle(self, records: Records) -> None:
        """Write the records of one poll and where to go on."""
        now, letters = self._clock(), []
        read: list[tuple[Any, EventRow | None]] = []
        for record in (r for part in records.values() for r in part):
            try:
                read.append((record, to_row(decode_event(record.value, now=now, unknown=self.unknown_fields))))
            except ContractError as error:
                letters.append(DeadLetter(record, "decode", type(error).__name__, str(error)))
                read.append((record, None))
        self._write(read, letters)

    def _write(self, read: Sequence[tuple[Any, EventRow | None]], letters: Sequence[DeadLetter]) -> None:
        """Write these records in one transaction; halve them when the database cannot take one, until it is alone."""
        good = [(record, row) for record, row in read if row is not None]

        def send_dead_letters(result: WriteResult) -> None:
            refused = [DeadLetter(good[r.index][0], "store", "ContractError", r.reason) for r in result.rejected]
            if letters or refused:
                self._dead_letters([*letters, *refused])

        offsets: dict[tuple[str, int], int] = {}
        for record, _ in read:
            offsets[record.topic, record.partition] = record.offset + 1
        try:
            result = self._store.write_events([row for _, row in good], offsets, send_dead_letters)
        except _BLAMES_ROWS as error:
            middle = len(read) // 2
            if middle:
                first = {id(record) for record, _ in read[:middle]}
                self._write(read[:middle], [letter for letter in letters if id(letter.record) in first])
                self._write(read[middle:], [letter for letter in letters if id(letter.record) not in first])
            else:
                record = read[0][0]
                self._write([(record, None)], [DeadLetter(record, "store", type(error).__name__, str(error))])
            return
        self.counts.update(
            written=result.written, duplicate=result.duplicate, dead_letters=len(letters) + len(result.rejected)
        )


def to_row(event: Event) -> EventRow:
    """The store's row of an event: times become microseconds since the epoch."""
    return EventRow(
        event_id=event.event_id,
        kind=event.kind,
        unit_id=event.unit_id,
        event_time=_microseconds(event.event_time),
        experiment=event.experiment,
        arm=event.arm,
        config_version=event.config_version,
        product_id=event.product_id,
        order_id=event.order_id,
        amount_minor=event.amount_minor,
        currency=event.currency,
        surface=event.surface,
        query=event.query,
    )


def to_event(row: EventRow) -> Event:
    """The reverse of `to_row`, for what the exposure logger hands over."""
    return Event(
        event_id=row.event_id,
        kind=row.kind,  # type: ignore[arg-type]  # validated on the way in
        unit_id=row.unit_id,
        event_time=_EPOCH + timedelta(microseconds=row.event_time),
        experiment=row.experiment,
        arm=row.arm,
        config_version=row.config_version,
        product_id=row.product_id,
        order_id=row.order_id,
        amount_minor=row.amount_minor,
        currency=row.currency,
        surface=row.surface,  # type: ignore[arg-type]
        query=row.query,
    )


def _microseconds(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(microseconds=1)

"""Shop events -> SQL: validate, dedup by event id, offsets in the same transaction as the rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from experiments.events import EventRow
from experiments.sink import Rejected, WriteResult
from streaming.contracts import Event, decode_event
from streaming.dead_letters import DeadLetter
from streaming.errors import ContractError
from streaming.loop import Records


class EventStore(Protocol):
    """The part of `experiments.store.ExperimentStore` that the sink needs."""

    def check_events(self, rows: Sequence[EventRow]) -> Sequence[Rejected]: ...
    def write_events(self, rows: Sequence[EventRow], offsets: Mapping[tuple[str, int], int]) -> WriteResult: ...


class EventSink:
    """Handles batches of records of `events`.

    Dead letters are sent before the transaction that moves the offsets: a crash in between sends one twice, never none.
    """

    def __init__(
        self,
        store: EventStore,
        dead_letters: Callable[[Sequence[DeadLetter]], None],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store, self._dead_letters, self._clock = store, dead_letters, clock
        self.counts: Counter[str] = Counter()

    def handle(self, records: Records) -> None:
        """Write the records of one poll and where to go on."""
        letters: list[DeadLetter] = []
        rows: list[EventRow] = []
        sources: list[Any] = []
        for record in (r for part in records.values() for r in part):
            try:
                rows.append(to_row(decode_event(record.value, now=self._clock())))
                sources.append(record)
            except ContractError as error:
                letters.append(DeadLetter(record, "decode", type(error).__name__, str(error)))
        rejected = {r.index: r.reason for r in self._store.check_events(rows)}
        letters += [DeadLetter(sources[i], "store", "ContractError", reason) for i, reason in rejected.items()]
        if letters:
            self._dead_letters(letters)
        good = [row for i, row in enumerate(rows) if i not in rejected]
        result = self._store.write_events(
            good, {(tp.topic, tp.partition): part[-1].offset + 1 for tp, part in records.items()}
        )
        self.counts.update(written=result.written, duplicate=result.duplicate, dead_letters=len(letters))


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
        event_time=datetime.fromtimestamp(row.event_time / 1e6, UTC),
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
    delta = at - datetime.fromtimestamp(0, UTC)
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds

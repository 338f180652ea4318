"""Shop events -> SQL: validate, dedup by event id, offsets in the same transaction as the rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from experiments.events import EventRow
from experiments.sink import WriteResult
from streaming.contracts import Event, decode_event
from streaming.dead_letters import DeadLetter
from streaming.errors import ContractError
from streaming.loop import Records


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

        def send_dead_letters(result: WriteResult) -> None:
            refused = [DeadLetter(sources[r.index], "store", "ContractError", r.reason) for r in result.rejected]
            if letters or refused:
                self._dead_letters([*letters, *refused])
            self.counts["dead_letters"] += len(letters) + len(refused)

        offsets = {(tp.topic, tp.partition): part[-1].offset + 1 for tp, part in records.items()}
        result = self._store.write_events(rows, offsets, send_dead_letters)
        self.counts.update(written=result.written, duplicate=result.duplicate)


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

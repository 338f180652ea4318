"""Shop events -> SQL: validate, dedup by event id, offsets in the same transaction as the rows.

The offsets belong to one log, which Kafka's cluster and topic ids identify: of another cluster, or of a topic that was
made anew, everything is read. Reading again is harmless, passing over events is not.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from sqlalchemy.exc import DataError, IntegrityError

from experiments.event_rows import EventRow
from experiments.event_writer import Rejected, WriteResult
from feature_repo.recent import Engagement
from streaming.consumer.observer import NO_OBSERVER, Observer
from streaming.consumer.partitions import Records
from streaming.consumer.poison import PoisonGuard
from streaming.contracts import Event, check_event
from streaming.dead_letters.writer import FailedRecord
from streaming.errors import ContractError
from streaming.kafka.codec import Codec
from streaming.kafka.connection import KafkaConsumer

log = logging.getLogger(__name__)

_EPOCH = datetime.fromtimestamp(0, UTC)
# What a shopper does with a product that says of what it likes; to be shown one says nothing.
_ENGAGED = frozenset({"click", "save", "add_to_cart", "order"})
# What a database says of values, not of itself: the same rows will never go in.
_BLAMES_ROWS = (DataError, IntegrityError, OverflowError, UnicodeEncodeError)


class EventStore(Protocol):
    """The part of `experiments.store.ExperimentStore` that the sink needs."""

    def rejected(self, rows: Sequence[EventRow]) -> tuple[Rejected, ...]: ...

    def write_events(
        self, rows: Sequence[EventRow], offsets: Mapping[tuple[str, int], int], log: str
    ) -> WriteResult: ...

    def offsets(self, topic: str, log: str) -> dict[int, int]: ...

    def forget_offsets(self, topic: str, log: str, partitions: Collection[int]) -> None: ...


class EventSink:
    """Handles batches of records of `events`; `log_id` identifies their log (`topic_admin.log_id`).

    `codec` decodes their values (`Connection.codec`).

    Dead letters are acknowledged before the transaction that moves the offsets begins: a crash in between sends one
    twice, never none, and a slow broker does not keep the database locked.

    Attributes:
        recent: takes the shoppers' engagements of each batch (`ProductFeatureStore.add_engagements`), before the
            transaction that moves the offsets: a crash in between sends them twice, which changes nothing.
        poison: refuses to go on when too many messages are refused; None: never.
        observer: hears what became of each batch.
    """

    def __init__(
        self,
        store: EventStore,
        dead_letters: Callable[[Sequence[FailedRecord]], None],
        log_id: str,
        codec: Codec,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store, self._dead_letters, self._log_id, self._clock = store, dead_letters, log_id, clock
        self._codec = codec
        self.counts: Counter[str] = Counter()
        self.unknown_fields: Counter[str] = Counter()
        self.recent: Callable[[Sequence[Engagement]], object] | None = None
        self.poison: PoisonGuard | None = None
        self.observer: Observer = NO_OBSERVER

    def start_offsets(self, consumer: KafkaConsumer, topic: str) -> dict[int, int]:
        """Where to begin in the consumer's partitions; one that is not named begins at its log's start.

        So does one whose stored offset the log does not have, as after a broker lost data or kept it too short.
        """
        stored = self._store.offsets(topic, self._log_id)
        partitions = [tp for tp in consumer.assignment() if tp.topic == topic and tp.partition in stored]
        if not partitions:
            return {}
        first, end = consumer.beginning_offsets(partitions), consumer.end_offsets(partitions)
        outside = [tp for tp in partitions if not first[tp] <= stored[tp.partition] <= end[tp]]
        for tp in outside:
            log.error(
                "%s: partition %d holds offsets %d to %d, but the database goes on at %d: events may be lost; all that "
                "is there is read again, nothing is counted twice",
                *(topic, tp.partition, first[tp], end[tp], stored[tp.partition]),
            )
        if outside:
            self._store.forget_offsets(topic, self._log_id, [tp.partition for tp in outside])
        return {tp.partition: stored[tp.partition] for tp in partitions if tp not in outside}

    def handle(self, records: Records) -> None:
        """Write the records of one poll and where to go on.

        Raises:
            PoisonRateError: too many of the messages that were read lately cannot be used.
            RegistryError: a schema registry is in use and does not answer.
        """
        now, letters, before = self._clock(), [], self.counts.copy()
        read: list[tuple[Any, EventRow | None]] = []
        for record in (r for part in records.values() for r in part):
            try:
                event = self._codec.decode(Event, record.value, self.unknown_fields)
                check_event(event, now=now)
                read.append((record, to_row(event)))
            except ContractError as error:
                letters.append(FailedRecord(record, "decode", type(error).__name__, str(error)))
                read.append((record, None))
        at = [index for index, (_, row) in enumerate(read) if row is not None]
        for rejected in self._store.rejected([row for _, row in read if row is not None]):
            record, _ = read[at[rejected.index]]
            letters.append(FailedRecord(record, "store", "ContractError", rejected.reason))
            read[at[rejected.index]] = record, None
        if self.poison and read:
            first = read[0][0]
            reason = letters[0].message if letters else ""
            self.poison.count((first.partition, first.offset), len(read), len(letters), reason)
        self._send(letters)
        if self.recent and (engaged := engagements(row for _, row in read if row is not None)):
            self.recent(engaged)
        self._write(read)
        self._tell([record for record, row in read if row is not None], before)

    def _tell(self, used: Sequence[Any], before: Counter[str]) -> None:
        at = self._clock().timestamp() * 1000
        self.observer.fresh([at - record.timestamp for record in used])
        counts = self.counts - before
        del counts["dead_letters"]  # told when they were sent
        self.observer.counted(counts)

    def _send(self, letters: Sequence[FailedRecord]) -> None:
        if letters:
            self._dead_letters(letters)
            self.counts["dead_letters"] += len(letters)
            self.observer.dead_letters(Counter(letter.stage for letter in letters))

    def _write(self, read: Sequence[tuple[Any, EventRow | None]]) -> None:
        """Write these records in one transaction; halve them when the database cannot take one, until it is alone."""
        offsets = {(record.topic, record.partition): record.offset + 1 for record, _ in read}
        try:
            result = self._store.write_events([row for _, row in read if row is not None], offsets, self._log_id)
        except _BLAMES_ROWS as error:
            if middle := len(read) // 2:
                self._write(read[:middle])
                self._write(read[middle:])
            else:
                record = read[0][0]
                self._send([FailedRecord(record, "store", type(error).__name__, str(error))])
                self._write([(record, None)])
            return
        self.counts.update(written=result.written, duplicate=result.duplicate)


def engagements(rows: Iterable[EventRow]) -> list[Engagement]:
    """Who engaged with which product, as far as the events say."""
    return [
        Engagement(row.unit_id, row.product_id, row.event_time)
        for row in rows
        if row.kind in _ENGAGED and row.product_id
    ]


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
        attributes=event.attributes,
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
        attributes=row.attributes,
    )


def _microseconds(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(microseconds=1)

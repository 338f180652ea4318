"""The sink of shop events: decode, check and deduplicate them, and write rows and offsets to SQL in one transaction.

The offsets belong to one log, identified by Kafka's cluster and topic ids. In another cluster, or in a topic that was
deleted and created again, the sink starts from the beginning: reading an event twice is harmless, skipping one is not.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol

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
from streaming.events.conversion import to_engagements, to_row
from streaming.kafka.codec import Codec
from streaming.kafka.connection import KafkaConsumer

log = logging.getLogger(__name__)

# Errors of the rows, not of the database's state: the database never accepts these rows.
_ROW_ERRORS = (DataError, IntegrityError, OverflowError, UnicodeEncodeError)


class EventStore(Protocol):
    """The part of `experiments.store.ExperimentStore` that the sink needs."""

    def rejected(self, rows: Sequence[EventRow]) -> tuple[Rejected, ...]:
        """Return the rows that `write_events` would reject."""

    def write_events(self, rows: Sequence[EventRow], offsets: Mapping[tuple[str, int], int], log: str) -> WriteResult:
        """Write rows and offsets in one transaction."""

    def offsets(self, topic: str, log: str) -> dict[int, int]:
        """Return the next offset to read, by partition."""

    def forget_offsets(self, topic: str, log: str, partitions: Collection[int]) -> None:
        """Delete the offsets of partitions."""


class _Decoded(NamedTuple):
    """A Kafka record and its row; the row is None when the record is a dead letter."""

    record: Any
    row: EventRow | None


class EventSink:
    """Handles batches of records of the topic `events`.

    The broker acknowledges the dead letters before the transaction that moves the offsets begins. A crash in between
    sends a dead letter twice and never loses one, and a slow broker does not keep the database locked.

    Args:
        store: Receives rows and offsets.
        dead_letters: Sends dead letters, and returns when the broker has acknowledged them.
        log_id: Identifies the topic's log (`topic_admin.log_id`).
        codec: Decodes the values of the records (`Connection.codec`).
        clock: Returns the current time.

    Attributes:
        counts: Counts of written and duplicate rows, and of dead letters.
        unknown_fields: Counts of fields that the contract does not name.
        recent: Receives the engagements of each batch (`ProductFeatureStore.add_engagements`) before the transaction
            that moves the offsets. A crash in between sends them twice, which changes nothing. None ignores
            engagements.
        poison: Stops the sink when too many messages are refused; None never stops it.
        observer: Receives the results of each batch.
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
        """Return where to start in the consumer's partitions.

        A partition that is not in the result starts at the beginning of its log. So does a partition whose stored
        offset the log does not have, for example after a broker lost data or deleted it too early.

        Args:
            consumer: A consumer with assigned partitions.
            topic: The topic.
        """
        stored = self._store.offsets(topic, self._log_id)
        partitions = [tp for tp in consumer.assignment() if tp.topic == topic and tp.partition in stored]
        if not partitions:
            return {}
        first, end = consumer.beginning_offsets(partitions), consumer.end_offsets(partitions)
        outside = [tp for tp in partitions if not first[tp] <= stored[tp.partition] <= end[tp]]
        for tp in outside:
            log.error(
                "%s: partition %d has offsets %d to %d, but the database continues at %d: events may be lost; the sink "
                "reads the partition from its beginning, and counts nothing twice",
                *(topic, tp.partition, first[tp], end[tp], stored[tp.partition]),
            )
        if outside:
            self._store.forget_offsets(topic, self._log_id, [tp.partition for tp in outside])
        return {tp.partition: stored[tp.partition] for tp in partitions if tp not in outside}

    def handle(self, records: Records) -> None:
        """Write the records of one poll together with the next offsets.

        Args:
            records: Records by partition.

        Raises:
            PoisonRateError: Too many of the last messages cannot be used.
            RegistryError: A schema registry is configured and does not answer.
        """
        before = self.counts.copy()
        batch = [record for part in records.values() for record in part]
        decoded, letters = self._decode(batch)
        self._reject(decoded, letters)
        if self.poison and decoded:
            first = decoded[0].record
            reason = letters[0].message if letters else ""
            self.poison.count((first.partition, first.offset), len(decoded), len(letters), reason)
        self._send(letters)
        rows = [row for _, row in decoded if row is not None]
        if self.recent and (engagements := to_engagements(rows)):
            self.recent(engagements)
        self._write(decoded)
        self._report([record for record, row in decoded if row is not None], before)

    def _decode(self, batch: Sequence[Any]) -> tuple[list[_Decoded], list[FailedRecord]]:
        now = self._clock()
        decoded: list[_Decoded] = []
        letters: list[FailedRecord] = []
        for record in batch:
            try:
                event = self._codec.decode(Event, record.value, self.unknown_fields)
                check_event(event, now=now)
                decoded.append(_Decoded(record, to_row(event)))
            except ContractError as error:
                letters.append(FailedRecord(record, "decode", type(error).__name__, str(error)))
                decoded.append(_Decoded(record, None))
        return decoded, letters

    def _reject(self, decoded: list[_Decoded], letters: list[FailedRecord]) -> None:
        """Move the rows that the store rejects to the dead letters, in place."""
        positions = [index for index, (_, row) in enumerate(decoded) if row is not None]
        for rejected in self._store.rejected([row for _, row in decoded if row is not None]):
            position = positions[rejected.index]
            record = decoded[position].record
            letters.append(FailedRecord(record, "store", "ContractError", rejected.reason))
            decoded[position] = _Decoded(record, None)

    def _report(self, written: Sequence[Any], before: Counter[str]) -> None:
        now_ms = self._clock().timestamp() * 1000
        self.observer.fresh([now_ms - record.timestamp for record in written])
        counts = self.counts - before
        del counts["dead_letters"]  # `_send` has reported them
        self.observer.counted(counts)

    def _send(self, letters: Sequence[FailedRecord]) -> None:
        if letters:
            self._dead_letters(letters)
            self.counts["dead_letters"] += len(letters)
            self.observer.dead_letters(Counter(letter.stage for letter in letters))

    def _write(self, decoded: Sequence[_Decoded]) -> None:
        """Write records in one transaction. If the database refuses a row, halve the batch until that row is alone."""
        offsets = {(record.topic, record.partition): record.offset + 1 for record, _ in decoded}
        try:
            result = self._store.write_events([row for _, row in decoded if row is not None], offsets, self._log_id)
        except _ROW_ERRORS as error:
            if middle := len(decoded) // 2:
                self._write(decoded[:middle])
                self._write(decoded[middle:])
            else:
                record = decoded[0].record
                self._send([FailedRecord(record, "store", type(error).__name__, str(error))])
                self._write([_Decoded(record, None)])
            return
        self.counts.update(written=result.written, duplicate=result.duplicate)

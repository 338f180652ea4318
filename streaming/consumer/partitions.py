"""Bookkeeping of the assigned partitions: which offsets may be committed, given back or skipped.

A record counts only within the assignment epoch in which it was read. A rebalance that takes a partition away begins a
new epoch: whatever was read before belongs to the next owner, even if the partition comes back.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from kafka.errors import CommitFailedError, IllegalGenerationError, UnknownMemberIdError
from kafka.structs import OffsetAndMetadata

from streaming.kafka.connection import (
    ConsumerRebalanceListener,
    CorruptRecordError,
    KafkaConsumer,
    TopicPartition,
    unreadable_partition,
)

log = logging.getLogger(__name__)

Records = Mapping[TopicPartition, Sequence[Any]]
"""Records by partition, in the order of their offsets."""

BROKER_MS = 3_000
"""Longest wait for an answer of the broker, so that an unreachable broker delays neither a commit nor a stop."""
_NOT_A_MEMBER = (CommitFailedError, IllegalGenerationError, UnknownMemberIdError)


class Damage(NamedTuple):
    """An offset that cannot be read, and the error of the poll that found it."""

    offset: int
    error: CorruptRecordError


class Partitions(ConsumerRebalanceListener):  # type: ignore[misc]
    """The state of the assigned partitions of one consumer.

    kafka-python calls the three listener methods in a thread of its own. They must not block: a commit inside them
    raises, and a slow call would remove us from the group. So they only update this state.

    Args:
        consumer: Consumer with a group.
        topic: The subscribed topic.
        start_offsets: Start offsets of newly assigned partitions, by partition number; a partition without an entry
            begins at its first offset. None starts at the group's committed offsets.

    Attributes:
        damaged: Offsets that cannot be read. Nothing more is read until they are skipped.
    """

    def __init__(
        self, consumer: KafkaConsumer, topic: str, start_offsets: Callable[[], Mapping[int, int]] | None
    ) -> None:
        self._consumer, self._topic, self._start_offsets = consumer, topic, start_offsets
        self._epochs: dict[TopicPartition, int] = {}
        self._finished: dict[TopicPartition, int] = {}  # offsets to commit
        self._unplaced: set[TopicPartition] = set()  # assigned, but not yet at their start offsets
        self.damaged: dict[TopicPartition, Damage] = {}

    # Rebalances.

    def on_partitions_assigned(self, assigned: Sequence[TopicPartition]) -> None:
        """Note that these partitions must be placed at their start offsets."""
        self._unplaced.update(assigned)

    def on_partitions_revoked(self, revoked: Sequence[TopicPartition]) -> None:
        """Begin a new epoch for these partitions."""
        for tp in revoked:
            self._epochs[tp] = self.epoch(tp) + 1
            self._finished.pop(tp, None)
            self.damaged.pop(tp, None)
            self._unplaced.discard(tp)

    def on_partitions_lost(self, lost: Sequence[TopicPartition]) -> None:
        """Begin a new epoch for these partitions."""
        self.on_partitions_revoked(lost)

    def epoch(self, tp: TopicPartition) -> int:
        """Return the assignment epoch: how many times the consumer has lost the partition."""
        return self._epochs.get(tp, 0)

    def _owns(self, tp: TopicPartition) -> bool:
        return tp in self._consumer.assignment()

    # Positions.

    def place(self, polled: Records) -> bool:
        """Move newly assigned partitions to their start offsets; return whether there were any.

        If so, the polled records are given back: those of new partitions were read from the wrong offsets.
        """
        if self._start_offsets is None or not self._unplaced:
            return False
        self.give_back(polled)
        start_offsets = self._start_offsets()
        for tp in list(self._unplaced):
            if tp.partition in start_offsets:
                self._seek(tp, start_offsets[tp.partition])
            elif self._owns(tp):
                self._consumer.seek_to_beginning(tp)
            self._unplaced.discard(tp)
        return True

    def give_back(self, records: Records) -> None:
        """Seek back, so that the consumer reads these records again."""
        for tp, rows in records.items():
            self._seek(tp, rows[0].offset)

    def pause(self, partitions: Records | Mapping[TopicPartition, Damage]) -> None:
        """Stop reading these partitions until `resume`."""
        self._consumer.pause(*(partitions.keys() & self._consumer.assignment()))

    def resume(self) -> None:
        """Read all partitions again."""
        if paused := self._consumer.paused():
            self._consumer.resume(*paused)

    def _seek(self, tp: TopicPartition, offset: int) -> None:
        if self._owns(tp):
            self._consumer.seek(tp, offset)

    # Damage.

    def note_damaged(self, error: CorruptRecordError) -> None:
        """Note the offset that a poll could not read.

        Raises:
            CorruptRecordError: The error does not name the partition. Another poll would spin on it.
        """
        tp = unreadable_partition(error)
        if tp is None:
            raise error
        if self._owns(tp):
            self.damaged[tp] = Damage(self._consumer.position(tp, timeout_ms=BROKER_MS), error)

    def skip_damaged(self, tp: TopicPartition) -> None:
        """Continue after the damaged offset, unless the consumer has lost the partition."""
        if tp not in self.damaged:
            return
        offset, error = self.damaged.pop(tp)
        log.error("%s: offset %d of partition %d is skipped: %s", tp.topic, offset, tp.partition, error)
        self._seek(tp, offset + 1)
        if self._owns(tp):
            self._finished[tp] = offset + 1

    # Committing.

    @property
    def uncommitted(self) -> bool:
        """Whether finished offsets wait for a commit."""
        return bool(self._finished)

    def finish(self, records: Records, epochs: Mapping[TopicPartition, int]) -> None:
        """Mark records as handled, except those whose partition is in another epoch now than when they were read."""
        for tp, rows in records.items():
            if self._owns(tp) and self.epoch(tp) == epochs[tp]:
                self._finished[tp] = rows[-1].offset + 1

    def commit(self) -> None:
        """Commit the finished offsets; drop them if this consumer is no longer a member of its group.

        Raises:
            KafkaError: The broker did not accept the offsets. They are kept, and the next commit includes them.
        """
        offsets = dict(self._finished)
        if not offsets:
            return
        with contextlib.suppress(*_NOT_A_MEMBER):  # the new owner reads these records again
            self._consumer.commit(
                {tp: OffsetAndMetadata(offset, "", -1) for tp, offset in offsets.items()}, timeout_ms=BROKER_MS
            )
        for tp in offsets:
            self._finished.pop(tp, None)

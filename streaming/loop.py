"""The consumer loop that the catalogue and the events share: read, handle, then commit; never the other way round.

What it is built for: a handler that fails for a while (Triton, a store or the broker is away) keeps its group
membership, pauses, backs off with jitter and handles the same records again; records polled during a pause are given
back; a rebalance commits only what is finished; a lost partition is somebody else's, as a refused commit tells.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kafka.errors import (
    CommitFailedError,
    IllegalGenerationError,
    RebalanceInProgressError,
    UnknownMemberIdError,
)
from kafka.structs import OffsetAndMetadata

from streaming.kafka import POLL_MS, ConsumerRebalanceListener, KafkaConsumer, KafkaError, TopicPartition

log = logging.getLogger(__name__)

Records = Mapping[TopicPartition, Sequence[Any]]
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0
_NOT_OURS = (CommitFailedError, RebalanceInProgressError, IllegalGenerationError, UnknownMemberIdError)


class ConsumerLoop:
    """Runs a handler over a topic.

    Args:
        consumer: made by `Connection.consumer` with a group.
        handle: takes the records of a poll; returns when everything about them is written.
        transient: what `handle` raises when trying again later may help; anything else ends the loop.
        start_offsets: where to begin in partitions just assigned, when the truth is not Kafka's (the event sink's
            database); by default the group's committed offsets.
    """

    def __init__(
        self,
        consumer: KafkaConsumer,
        topic: str,
        handle: Callable[[Records], None],
        *,
        transient: tuple[type[Exception], ...],
        start_offsets: Callable[[], Mapping[int, int]] | None = None,
    ) -> None:
        self._consumer, self._topic, self._handle, self._transient = consumer, topic, handle, transient
        self._start_offsets = start_offsets
        self._finished: dict[TopicPartition, int] = {}
        self.handled = 0
        self.failing: str | None = None  # why it is backing off, None when all is well

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set. Finished work is committed before it returns."""
        self._consumer.subscribe([self._topic], listener=_Listener(self))
        try:
            while not stop.is_set():
                self._step(stop)
        finally:
            self._commit()
            self._consumer.close()

    def _step(self, stop: threading.Event) -> None:
        try:
            records = self._consumer.poll(POLL_MS)
        except KafkaError as error:
            self._note(error)
            stop.wait(_FIRST_PAUSE_S)
            return
        if not records:
            self.failing = None
            return
        if self._until_handled(records, stop):
            self._finished.update({tp: rows[-1].offset + 1 for tp, rows in records.items()})
            self.handled += sum(map(len, records.values()))
            self.failing = None
            self._commit()
        else:
            self._give_back(records)

    def _until_handled(self, records: Records, stop: threading.Event) -> bool:
        """Handle, with pauses between tries; false when stopped or no longer the owner."""
        pause = _FIRST_PAUSE_S
        while True:
            try:
                self._handle(records)
                return True
            except self._transient as error:
                self._note(error)
            self._wait(pause * random.uniform(0.5, 1.5), stop)
            pause = min(2 * pause, _LONGEST_PAUSE_S)
            if stop.is_set() or not set(records) <= set(self._consumer.assignment()):
                return False

    def _wait(self, seconds: float, stop: threading.Event) -> None:
        """Back off without leaving the group: everything paused, but polled."""
        self._consumer.pause(*self._consumer.assignment())
        end = time.monotonic() + seconds
        try:
            while (left := end - time.monotonic()) > 0 and not stop.is_set():
                try:
                    early = self._consumer.poll(int(1000 * min(left, 0.2)))
                except KafkaError:
                    stop.wait(min(left, 0.2))
                    continue
                # Partitions assigned during the pause are not paused yet: give their records back.
                self._give_back(early)
                self._consumer.pause(*early)
        finally:
            self._consumer.resume(*self._consumer.paused())

    def _give_back(self, records: Records) -> None:
        owned = self._consumer.assignment()
        for tp, rows in records.items():
            if tp in owned:
                self._consumer.seek(tp, rows[0].offset)

    def _commit(self) -> None:
        if not self._finished:
            return
        try:
            self._consumer.commit({tp: OffsetAndMetadata(o, "", -1) for tp, o in self._finished.items()})
        except _NOT_OURS:
            pass  # a new owner reads these records again; every write is idempotent
        except KafkaError as error:
            self._note(error)
            return  # kept: the next commit includes them
        self._finished.clear()

    def _note(self, error: Exception) -> None:
        reason = f"{type(error).__name__}: {error}"
        if reason != self.failing:
            log.warning("%s: backing off, nothing is lost: %s", self._topic, reason)
        self.failing = reason

    def _assigned(self, partitions: Sequence[TopicPartition]) -> None:
        if self._start_offsets is not None and partitions:
            known = self._start_offsets()
            for tp in partitions:
                if tp.partition in known:
                    self._consumer.seek(tp, known[tp.partition])
                else:
                    self._consumer.seek_to_beginning(tp)

    def _lost(self, partitions: Sequence[TopicPartition]) -> None:
        for tp in partitions:
            self._finished.pop(tp, None)


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(self, loop: ConsumerLoop) -> None:
        self._loop = loop

    def on_partitions_assigned(self, assigned: Sequence[TopicPartition]) -> None:
        self._loop._assigned(assigned)

    def on_partitions_revoked(self, revoked: Sequence[TopicPartition]) -> None:
        self._loop._commit()

    def on_partitions_lost(self, lost: Sequence[TopicPartition]) -> None:
        self._loop._lost(lost)

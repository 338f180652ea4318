"""A stand-in of kafka-python's consumer."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from kafka.errors import CorruptRecordError

from streaming.kafka.connection import TopicPartition
from tests.streaming.builders import Record

P0, P1 = TopicPartition("t", 0), TopicPartition("t", 1)


class FakeConsumer:
    """Kafka-python as the loop sees it: positions advance by polling, a rebalance forgets them, corruption sticks.

    `script` holds what happens at the beginning of the next polls; the loop is stopped when it is used up and all is
    read, or, if `patient`, committed.
    """

    def __init__(self, stop: threading.Event, **logs: int) -> None:
        self.stop = stop
        self.logs = {TopicPartition("t", int(p[1:])): count for p, count in logs.items()}
        self.damaged: set[tuple[TopicPartition, int]] = set()
        self.committed: dict[TopicPartition, int] = {}
        self.commits: list[dict[TopicPartition, int]] = []
        self.commit_errors: deque[Exception] = deque()
        self.script: deque[Callable[[], None]] = deque()
        self.positions: dict[TopicPartition, int] = {}
        self.pauses: set[TopicPartition] = set()
        self.polls = 0
        self.deferred: TopicPartition | None = None  # an error that the next poll raises
        self.spinning: TopicPartition | None = None
        self.closed = False
        self.batch = 2
        self.patient = False

    def subscribe(self, topics: list[str], listener: Any) -> None:
        self.listener = listener
        self.script.appendleft(lambda: self.assign(*self.logs))

    def assign(self, *partitions: TopicPartition) -> None:
        for tp in partitions:
            self.positions[tp] = self.committed.get(tp, 0)
        self.listener.on_partitions_assigned(list(partitions))

    def revoke(self, tp: TopicPartition, *, lost: bool = False) -> None:
        del self.positions[tp]
        self.pauses.discard(tp)
        (self.listener.on_partitions_lost if lost else self.listener.on_partitions_revoked)([tp])

    def poll(self, timeout_ms: int) -> dict[TopicPartition, list[Record]]:
        assert not self.closed
        self.polls += 1
        if self.script:
            self.script.popleft()()
        elif not self.unread() and (not self.patient or self.all_committed()):
            self.stop.set()
        deferred, self.deferred = self.deferred, None
        if deferred is not None:
            self.spinning = deferred
            if deferred not in self.pauses:
                raise self.corrupt(deferred)
        results: dict[TopicPartition, list[Record]] = {}
        for tp, position in self.positions.items():
            if tp in self.pauses:
                continue
            assert self.spinning != tp, "kafka-python would spin forever now"
            if (tp, position) in self.damaged:
                if not results:
                    self.spinning = tp
                    raise self.corrupt(tp)
                self.deferred = tp
                break
            if results:
                continue
            end = min(self.logs[tp], position + self.batch)
            end = min([end, *(offset for p, offset in self.damaged if p == tp and offset > position)])
            if end > position:
                self.positions[tp] = end
                results = {tp: [Record("t", tp.partition, offset) for offset in range(position, end)]}
        return results

    def corrupt(self, tp: TopicPartition) -> CorruptRecordError:
        return CorruptRecordError(f"Record batch for partition {tp} at offset {self.positions[tp]} failed crc check")

    def unread(self) -> bool:
        return any(position < self.logs[tp] for tp, position in self.positions.items())

    def all_committed(self) -> bool:
        return all(self.committed.get(tp, 0) >= self.logs[tp] for tp in self.positions)

    def assignment(self) -> set[TopicPartition]:
        return set(self.positions)

    def pause(self, *partitions: TopicPartition) -> None:
        self.pauses |= set(partitions)

    def paused(self) -> set[TopicPartition]:
        return set(self.pauses)

    def resume(self, *partitions: TopicPartition) -> None:
        self.pauses -= set(partitions)

    def position(self, tp: TopicPartition, timeout_ms: int | None = None) -> int:
        return self.positions[tp]

    def seek(self, tp: TopicPartition, offset: int) -> None:
        if self.spinning == tp and self.positions[tp] != offset:
            self.spinning = None
        self.positions[tp] = offset

    def seek_to_beginning(self, tp: TopicPartition) -> None:
        self.seek(tp, 0)

    def commit(self, offsets: Mapping[TopicPartition, Any], timeout_ms: int) -> None:
        if self.commit_errors:
            raise self.commit_errors.popleft()
        plain = {tp: o.offset for tp, o in offsets.items()}
        self.commits.append(plain)
        self.committed |= plain

    def close(self, timeout_ms: int) -> None:
        self.closed = True

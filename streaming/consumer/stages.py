"""The stages of a consumer: a thread for each, with a queue before it and retries inside."""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from streaming.consumer.observer import Observer
from streaming.consumer.partitions import Records
from streaming.kafka.connection import TopicPartition

Stage = Callable[[Any], Any]
"""Receives the previous stage's result (the first stage: `Records`). The last result is unused."""


@dataclass(frozen=True)
class Backoff:
    """Pauses between the attempts of a stage, in seconds. Each pause is twice the previous pause, with jitter."""

    first_s: float = 0.1
    longest_s: float = 5.0


class Batch:
    """Records on their way through the stages, or a damaged offset on its way to the `unreadable` handler.

    Attributes:
        records: The records, by partition.
        epochs: The assignment epochs in which they were read, by partition.
        damaged: The partition of the damaged offset; None for a batch of records.
        value: Input of the next stage; for a damaged offset, the call that handles it.
        done: Set when the last stage has finished.
        broken: Whether a stage failed with a permanent error.
        dropped: Set when the batch is abandoned; all batches that are abandoned together share it.
    """

    def __init__(self, *, damaged: TopicPartition | None = None, dropped: threading.Event | None = None) -> None:
        self.records: dict[TopicPartition, list[Any]] = {}
        self.epochs: dict[TopicPartition, int] = {}
        self.damaged = damaged
        self.value: Any = self.records
        self.done = threading.Event()
        self.broken = False
        self.dropped = dropped or threading.Event()

    @property
    def size(self) -> int:
        """Number of records."""
        return sum(map(len, self.records.values()))

    def add(self, records: Records, epoch: Callable[[TopicPartition], int]) -> None:
        """Add records that were just read."""
        for tp, rows in records.items():
            current = epoch(tp)
            if self.epochs.get(tp) != current:  # records of an earlier epoch are read again
                self.records[tp], self.epochs[tp] = [], current
            self.records[tp] += rows

    def kept(self, epoch: Callable[[TopicPartition], int]) -> dict[TopicPartition, list[Any]]:
        """Return the records of partitions that were not taken away since they were read."""
        return {tp: rows for tp, rows in self.records.items() if epoch(tp) == self.epochs[tp]}


class StageThreads:
    """Runs each stage in a thread of its own; every stage sees the batches in the order of reading.

    The threads are daemons, unlike those of an executor: a stage that hangs does not keep the process alive.

    Args:
        stages: The stages by name, in order.
        retryable: Errors after which a stage tries the same batch again.
        backoff: Pauses between the attempts.
        note: Called with each retryable error; returns its text for `failing`.
        observer: Receives finished and failed attempts.

    Attributes:
        error: The first permanent error of a stage; None if there was none.
        failing: Why stages back off, by stage name.
    """

    def __init__(
        self,
        stages: Mapping[str, Stage],
        *,
        retryable: tuple[type[Exception], ...],
        backoff: Backoff,
        note: Callable[[Exception], str],
        observer: Observer,
    ) -> None:
        self._retryable, self._backoff, self._note, self._observer = retryable, backoff, note, observer
        self.error: BaseException | None = None
        self.failing: dict[str, str] = {}
        self._queues: list[queue.SimpleQueue[Batch | None]] = [queue.SimpleQueue() for _ in stages]
        for place, (name, stage) in enumerate(stages.items()):
            threading.Thread(target=self._run, args=(place, name, stage), name=f"consumer-{name}", daemon=True).start()

    def put(self, batch: Batch) -> None:
        """Give a batch to the first stage."""
        self._queues[0].put(batch)

    def close(self) -> None:
        """Let each thread end after its current batch."""
        for waiting in self._queues:
            waiting.put(None)

    def _run(self, place: int, name: str, stage: Stage) -> None:
        while (batch := self._queues[place].get()) is not None:
            try:
                finished = self._process(name, stage, batch)
            except BaseException as error:
                batch.broken = True
                self.error = self.error or error
                return  # a later batch must not be written without this one
            if not finished:
                continue
            if place + 1 < len(self._queues) and batch.damaged is None:
                self._queues[place + 1].put(batch)
            else:
                batch.done.set()

    def _process(self, name: str, stage: Stage, batch: Batch) -> bool:
        """Run one stage for one batch, with pauses between attempts; return False if the batch was dropped."""
        began, pause = time.monotonic(), self._backoff.first_s
        try:
            while not batch.dropped.is_set():
                try:
                    value = batch.value() if batch.damaged is not None else stage(batch.value)
                except self._retryable as error:
                    self.failing[name] = self._note(error)
                    self._observer.stage_failed(name, error)
                else:
                    batch.value = value
                    self._observer.stage_done(name, batch.size, time.monotonic() - began)
                    return not batch.dropped.is_set()
                batch.dropped.wait(pause * random.uniform(0.5, 1.5))
                pause = min(2 * pause, self._backoff.longest_s)
            return False
        finally:
            self.failing.pop(name, None)

"""Follow `product.embeddings` and `product.offers` into an index in memory."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from inference.retrieval import RetrievalIndex
from streaming.errors import BrokerError, RegistryError, TopicError
from streaming.kafka.compacted import LogRange, position, resume
from streaming.kafka.connection import (
    Connection,
    CorruptRecordError,
    KafkaConsumer,
    KafkaError,
    TopicPartition,
    explained,
    unreadable_partition,
)
from streaming.kafka.topic_admin import log_id, tombstones_kept_ms
from streaming.kafka.topics import PRODUCT_EMBEDDINGS, PRODUCT_OFFERS
from streaming.vectors.index_updates import IndexUpdater, OnApplied

log = logging.getLogger(__name__)

_FOLLOWED = (PRODUCT_EMBEDDINGS, PRODUCT_OFFERS)
_TOPICS = " and ".join(_FOLLOWED)
_POLL_MS = 100
# Searches find a new vector at once; the follower links it into the graph between two polls. Each unlinked vector costs
# a search 0.2 us. Above 4,096 unlinked vectors, the follower links first and reads later.
_LINK_S, _MAX_WAITING = 0.02, 4096
_CHECK_ENDS_S = 15.0  # how often the follower checks whether it has read everything, if nobody calls `catch_up`


class IndexFollower:
    """Reads vectors and offers into an index of one model version, and keeps following both topics, in a thread.

    An index that was saved with the follower's `position` resumes there. Any other index, or one whose position is not
    on these topics, is emptied and filled from the beginning; the log says why. A context manager.

    Args:
        connection: The brokers.
        index: The index; only the follower's thread changes it.
        on_vector: Called for each vector that the index accepts, even if it is the same as before; see `IndexUpdater`.
        on_offer: Called for each offer that the index accepts, likewise.
        clock: Returns seconds since the epoch.
    """

    def __init__(
        self,
        connection: Connection,
        index: RetrievalIndex,
        on_vector: OnApplied | None = None,
        *,
        on_offer: OnApplied | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._connection, self._index, self._clock = connection, index, clock
        self._updater = IndexUpdater(index, connection.codec, on_vector, on_offer, clock)
        self._stop = threading.Event()
        self._progress = threading.Condition()
        self._requested = self._completed = 0  # number of calls of `catch_up`, and of those that are completed
        self._next: dict[TopicPartition, int] = {}  # next offset to read; all records before it are applied
        self._ended = self._current = False
        self._thread: threading.Thread | None = None

    def start(self) -> IndexFollower:
        """Start to follow; return the follower itself.

        Raises:
            TopicError: A topic does not exist.
            BrokerError: The broker does not answer or denies access.
        """
        self._consumer = self._connection.consumer(fetch_max_wait_ms=20, max_poll_records=2000)
        try:
            self._partitions = _find_partitions(self._consumer)
            self._logs = {topic: log_id(self._connection, topic) for topic in _FOLLOWED}
            self._kept_ms = tombstones_kept_ms(self._connection, _FOLLOWED)
            self._consumer.assign(self._partitions)
            self._begin(self._index.position)
        except KafkaError as error:
            self._consumer.close()
            raise BrokerError(f"{' and '.join(_FOLLOWED)} cannot be read: {explained(error)}") from error
        except (TopicError, BrokerError):
            self._consumer.close()
            raise
        self._thread = threading.Thread(target=self._run, name="index-follower", daemon=True)
        self._thread.start()
        return self

    def catch_up(self, timeout_s: float) -> bool:
        """Wait until everything that is on the topics now is applied; return whether that happened in time."""
        with self._progress:
            self._requested += 1
            request = self._requested
            self._progress.wait_for(lambda: self._completed >= request or self._ended, timeout_s)
            return self._completed >= request

    @property
    def current(self) -> bool:
        """Whether the follower has read everything that was on the topics when it began."""
        return self._current

    @property
    def following(self) -> bool:
        """Whether the follower still reads; false before it started, and after it ended or failed."""
        return self._thread is not None and not self._ended

    def position(self) -> dict[str, int]:
        """Return how far the index is; save it with the index: `index.save(folder, follower.position())`."""
        with self._progress:
            return position(self._next, self._logs, self._as_of_ms)

    def close(self) -> None:
        """Stop following, if it was started."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(10)

    def __enter__(self) -> IndexFollower:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------------------------------- where to begin

    def _begin(self, saved: Mapping[str, int]) -> None:
        """Resume at a saved position, or begin at the first offsets."""
        first = self._consumer.beginning_offsets(self._partitions)
        end = self._consumer.end_offsets(self._partitions)
        logs = {tp: LogRange(self._logs[tp.topic], first[tp], end[tp]) for tp in self._partitions}
        self._as_of_ms, offsets = self._now_ms(), first
        if saved:
            resumed = resume(saved, logs, tombstones_kept_ms=self._kept_ms, now_ms=self._as_of_ms)
            if isinstance(resumed, str):
                log.warning("the index of model version %s is rebuilt: %s", self._index.model_version, resumed)
                self._index.clear()
            else:
                offsets, self._as_of_ms = resumed
        with self._progress:
            self._next = dict(offsets)
            self._current = False
        for tp, offset in offsets.items():
            self._consumer.seek(tp, offset)
        self._ends: dict[TopicPartition, int] = {}
        self._ends_at_ms = self._ends_for = 0

    def _rebuild(self, reason: str) -> None:
        log.error("the index of model version %s is rebuilt: %s", self._index.model_version, reason)
        self._logs = {topic: log_id(self._connection, topic) for topic in _FOLLOWED}
        self._index.clear()
        self._begin({})

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)

    # ------------------------------------------------------------------------------------------------ following

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                try:
                    self._follow(self._consumer.poll(0 if self._index.unlinked else _POLL_MS))
                except CorruptRecordError as error:
                    self._skip_damaged(error)
                except RegistryError as error:
                    log.warning("%s: %s; trying again", _TOPICS, error)
                    for tp, offset in self._next.items():  # the records of the last poll are not applied
                        self._consumer.seek(tp, offset)
                    self._stop.wait(1.0)
                except (KafkaError, BrokerError) as error:
                    log.warning("%s: %s; trying again", _TOPICS, explained(error))
                    self._stop.wait(0.2)
                self._index.link(_LINK_S)
                self._index.link(keep=_MAX_WAITING)
        except Exception:
            log.exception("%s: the index no longer follows", _TOPICS)
        finally:
            with self._progress:
                self._ended = True
                self._progress.notify_all()
            self._consumer.close(timeout_ms=3_000)

    def _follow(self, polled: Mapping[TopicPartition, Sequence[Any]]) -> None:
        now_ms = self._now_ms()  # read once: if the machine sleeps between two readings, the gap would be lost
        if reason := self._reason_to_rebuild(polled, now_ms):
            self._rebuild(reason)
            return
        if polled:
            self._updater.apply([record for records in polled.values() for record in records], serving=self._current)
            with self._progress:
                self._next.update({tp: records[-1].offset + 1 for tp, records in polled.items()})
        self._check_ends(now_ms)

    def _reason_to_rebuild(self, polled: Mapping[TopicPartition, Sequence[Any]], now_ms: int) -> str | None:
        """Return why the polled records do not continue the applied ones, None if they do."""
        if now_ms - self._as_of_ms > self._kept_ms:
            return f"the follower did not read everything for {self._kept_ms / 3.6e6:.1f} hours; deletions may be lost"
        for tp, records in polled.items():
            if records[0].offset < self._next[tp]:
                return f"{tp.topic}, partition {tp.partition}, starts again at offset {records[0].offset}"
        return None

    def _check_ends(self, now_ms: int) -> None:
        """Note when everything up to the ends of the topics is read. Runs in the follower's thread."""
        requested = self._requested
        if requested != self._ends_for or now_ms - self._ends_at_ms > min(_CHECK_ENDS_S * 1000, self._kept_ms / 4):
            self._ends = self._consumer.end_offsets(self._partitions)
            self._ends_for, self._ends_at_ms = requested, now_ms
        if self._ends and all(self._consumer.position(tp) >= end for tp, end in self._ends.items()):
            with self._progress:
                self._ends, self._as_of_ms, self._current = {}, self._ends_at_ms, True
                self._completed = self._ends_for
                self._progress.notify_all()

    def _skip_damaged(self, error: CorruptRecordError) -> None:
        tp = unreadable_partition(error)
        if tp is None:
            raise error
        offset = self._consumer.position(tp)
        log.error("%s: offset %d of partition %d cannot be read and is skipped", tp.topic, offset, tp.partition)
        self._consumer.seek(tp, offset + 1)
        with self._progress:
            self._next[tp] = offset + 1


def end_position(connection: Connection) -> dict[str, int]:
    """Return the position of an index that holds everything on the topics now, as `IndexFollower.position` does.

    Raises:
        TopicError: A topic does not exist.
        BrokerError: The broker does not answer or denies access.
    """
    consumer = connection.consumer()
    try:
        now_ms = int(time.time() * 1000)
        logs = {topic: log_id(connection, topic) for topic in _FOLLOWED}
        return position(consumer.end_offsets(_find_partitions(consumer)), logs, now_ms)
    except KafkaError as error:
        raise BrokerError(f"{' and '.join(_FOLLOWED)} cannot be read: {explained(error)}") from error
    finally:
        consumer.close()


def _find_partitions(consumer: KafkaConsumer) -> list[TopicPartition]:
    partitions = []
    for topic in _FOLLOWED:
        numbers = consumer.partitions_for_topic(topic)
        if not numbers:
            raise TopicError(
                f"topic {topic} does not exist, or this user has no access to it; the consumers create the topics when "
                "they start"
            )
        partitions += [TopicPartition(topic, number) for number in sorted(numbers)]
    return partitions

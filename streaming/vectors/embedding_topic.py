"""`product.embeddings`: writing it, and following it into an index in memory, together with `product.offers`.

A record's key is `<model version>/<product id>`, so that compaction keeps the last vector of each model version and
a rollback finds its own. A deletion has a null value; its product version travels in a header.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from inference.retrieval import Attributes, RetrievalIndex
from streaming.contracts import ProductOffer, ProductVector
from streaming.errors import BrokerError, ContractError, RegistryError, TopicError
from streaming.kafka.codec import Codec
from streaming.kafka.compacted import NO_TRACES, LogRange, deleted_version, position, publish, resume
from streaming.kafka.connection import (
    Connection,
    CorruptRecordError,
    KafkaConsumer,
    KafkaError,
    KafkaProducer,
    TopicPartition,
    explained,
    unreadable_partition,
)
from streaming.kafka.topic_admin import log_id, tombstones_kept_ms
from streaming.kafka.topics import PRODUCT_EMBEDDINGS, PRODUCT_OFFERS
from streaming.vectors.offer_topic import attributes_of_offer

log = logging.getLogger(__name__)

Applied = Callable[[str, float], None]

_FOLLOWED = (PRODUCT_EMBEDDINGS, PRODUCT_OFFERS)
_POLL_MS = 100
# What is new is found at once and put into the graph between the polls: vectors that wait for that cost a search 0.2 us
# each, so they may not become too many, even if then what comes has to wait instead.
_LINK_S, _MOST_WAITING = 0.02, 4096
_LOOK_S = 15.0  # how often a follower that is not asked looks whether it has read everything


class EmbeddingPublisher:
    """Publishes vectors and tombstones on the topic; a call returns when the broker has them all.

    Args:
        producer: Sends the records.
        codec: `Connection.codec` of the cluster that the producer sends to.
    """

    def __init__(self, producer: KafkaProducer, codec: Codec) -> None:
        self._producer, self._codec = producer, codec

    def __call__(
        self, vectors: Sequence[tuple[str, str, int, ProductVector | None]], traces: Mapping[str, bytes] = NO_TRACES
    ) -> None:
        """(model version, product id, product version, vector or None for a deletion) each.

        Args:
            traces: by product id the `traceparent` of the update that is the cause; it goes on with the record.

        Raises:
            BrokerError: the broker did not take them all.
        """
        rows = [
            (f"{model_version}/{product_id}", version, None if vector is None else self._codec.encode(vector))
            for model_version, product_id, version, vector in vectors
        ]
        by_key = {f"{model}/{i}": traces[i] for model, i, *_ in vectors if i in traces} if traces else traces
        publish(self._producer, PRODUCT_EMBEDDINGS, rows, by_key)


class IndexFollower:
    """Reads vectors and attributes into an index of one model version, and stays on them. A thread of its own.

    An index that was saved with the follower's `position` goes on from there. Any other is filled from the beginning,
    and emptied before that if its position is not one of these topics; the log says why.

    Args:
        on_applied: called with the milliseconds from the update's arrival in Kafka to its being retrievable, for each
            vector applied that is new to this reader.
        on_offer: the same for attributes.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        connection: Connection,
        index: RetrievalIndex,
        on_applied: Applied | None = None,
        *,
        on_offer: Applied | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._connection, self._index, self._clock = connection, index, clock
        self._on_applied, self._on_offer = on_applied, on_offer
        self._stop = threading.Event()
        self._progress = threading.Condition()
        self._asked = self._reached = 0  # how often `catch_up` was called, and up to which call it is done
        self._next: dict[TopicPartition, int] = {}  # offsets to be read; what is before them is applied
        self._ended = self._current = False
        self._thread: threading.Thread | None = None

    def start(self) -> IndexFollower:
        """Begin to follow.

        Raises:
            TopicError: a topic does not exist.
            BrokerError: the broker cannot be reached.
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
        """Whether everything that is on the topics now is applied within the time."""
        with self._progress:
            self._asked += 1
            mine = self._asked
            self._progress.wait_for(lambda: self._reached >= mine or self._ended, timeout_s)
            return self._reached >= mine

    @property
    def current(self) -> bool:
        """Whether it has read everything that was there when it began."""
        return self._current

    @property
    def following(self) -> bool:
        """Whether it still reads; false before it started, and after it ended or died."""
        return self._thread is not None and not self._ended

    def position(self) -> dict[str, int]:
        """How far the index is; to be kept with it, as `index.save(folder, follower.position())`."""
        with self._progress:
            return position(self._next, self._logs, self._as_of_ms)

    def close(self) -> None:
        """Stop following, if it ever began."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(10)

    def __enter__(self) -> IndexFollower:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------------------------------- where to begin

    def _begin(self, kept: Mapping[str, int]) -> None:
        """Go on from a kept position, or from the beginning."""
        first = self._consumer.beginning_offsets(self._partitions)
        end = self._consumer.end_offsets(self._partitions)
        there = {tp: LogRange(self._logs[tp.topic], first[tp], end[tp]) for tp in self._partitions}
        self._as_of_ms, offsets = self._now_ms(), first
        if kept:
            found = resume(kept, there, tombstones_kept_ms=self._kept_ms, now_ms=self._as_of_ms)
            if isinstance(found, str):
                log.warning("the index of model version %s is built anew: %s", self._index.model_version, found)
                self._index.clear()
            else:
                offsets, self._as_of_ms = found
        with self._progress:
            self._next = dict(offsets)
            self._current = False
        for tp, offset in offsets.items():
            self._consumer.seek(tp, offset)
        self._ends: dict[TopicPartition, int] = {}
        self._ends_at_ms = self._ends_for = 0

    def _begin_anew(self, why: str) -> None:
        log.error("the index of model version %s is built anew: %s", self._index.model_version, why)
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
                    self._follow(self._consumer.poll(0 if self._index.waiting else _POLL_MS))
                except CorruptRecordError as error:
                    self._pass_damaged(error)
                except RegistryError as error:
                    log.warning("%s: %s; trying again", PRODUCT_EMBEDDINGS, error)
                    for tp, offset in self._next.items():  # what was polled last is not applied
                        self._consumer.seek(tp, offset)
                    self._stop.wait(1.0)
                except (KafkaError, BrokerError) as error:
                    log.warning("%s: %s; trying again", PRODUCT_EMBEDDINGS, type(error).__name__)
                    self._stop.wait(0.2)
                self._index.link(_LINK_S)
                self._index.link(keep=_MOST_WAITING)
        except Exception:
            log.exception("%s: the index no longer follows", PRODUCT_EMBEDDINGS)
        finally:
            with self._progress:
                self._ended = True
                self._progress.notify_all()
            self._consumer.close(timeout_ms=3_000)

    def _follow(self, polled: Mapping[TopicPartition, Sequence[Any]]) -> None:
        now = self._now_ms()  # once: a machine that sleeps between two looks at the clock must not lose the gap
        if why := self._lost(polled, now):
            self._begin_anew(why)
            return
        if polled:
            self._apply([record for tp, records in polled.items() for record in records])
            with self._progress:
                self._next.update({tp: records[-1].offset + 1 for tp, records in polled.items()})
        self._look_at_the_ends(now)

    def _lost(self, polled: Mapping[TopicPartition, Sequence[Any]], now: int) -> str | None:
        """Why what is polled does not continue what is applied."""
        if now - self._as_of_ms > self._kept_ms:
            return f"it did not read everything for {self._kept_ms / 3.6e6:.1f} hours; deletions may be gone"
        for tp, records in polled.items():
            if records[0].offset < self._next[tp]:
                return f"{tp.topic}, partition {tp.partition}, begins anew at offset {records[0].offset}"
        return None

    def _look_at_the_ends(self, now: int) -> None:
        """Find out whether everything is read. Only the follower's thread may use the consumer."""
        asked = self._asked
        if asked != self._ends_for or now - self._ends_at_ms > min(_LOOK_S * 1000, self._kept_ms / 4):
            self._ends = self._consumer.end_offsets(self._partitions)
            self._ends_for, self._ends_at_ms = asked, now
        if self._ends and all(self._consumer.position(tp) >= end for tp, end in self._ends.items()):
            with self._progress:
                self._ends, self._as_of_ms, self._current = {}, self._ends_at_ms, True
                self._reached = self._ends_for
                self._progress.notify_all()

    def _pass_damaged(self, error: CorruptRecordError) -> None:
        tp = unreadable_partition(error)
        if tp is None:
            raise error
        offset = self._consumer.position(tp)
        log.error("%s: offset %d of partition %d cannot be read and is passed", tp.topic, offset, tp.partition)
        self._consumer.seek(tp, offset + 1)
        with self._progress:
            self._next[tp] = offset + 1

    # ------------------------------------------------------------------------------------------------- applying

    def _apply(self, records: Sequence[Any]) -> None:
        """Records into the index, of each product the newest; those that are not ours to read are skipped."""
        newest: dict[str, tuple[int, ProductVector | None]] = {}
        for record in records:
            try:
                if record.topic == PRODUCT_OFFERS:
                    self._apply_offer(record)
                elif (found := self._read_vector(record)) is not None:
                    product_id, version, vector = found
                    if product_id not in newest or version >= newest[product_id][0]:
                        newest[product_id] = version, vector
            except (ValueError, KeyError) as error:
                where = f"{record.topic} {record.partition} {record.offset}"
                log.error("record %s is skipped: %s: %s", where, type(error).__name__, error)
        for product_id, (version, vector) in newest.items():
            if vector is None:
                self._index.remove(product_id, version)
        self._apply_vectors([vector for _, vector in newest.values() if vector is not None])

    def _read_vector(self, record: Any) -> tuple[str, int, ProductVector | None] | None:
        """Product id, version, and vector or None for a deletion; None for another model version's."""
        model_version, _, product_id = (record.key or b"").decode().partition("/")
        if model_version != self._index.model_version:
            return None
        if record.value is None:
            return product_id, deleted_version(record), None
        message = self._connection.codec.decode(ProductVector, record.value)
        if (message.model_version, message.id) != (model_version, product_id):
            raise ContractError("id", f"{message.model_version}/{message.id} is not what the key names")
        vector = message.unpack()
        if not np.isfinite(vector).all() or not vector.any():
            raise ContractError("vector", "must be finite numbers, not all zero")
        return product_id, message.version, message

    def _apply_vectors(self, messages: Sequence[ProductVector]) -> None:
        if not messages:
            return
        taken = self._index.upsert_many(
            [message.id for message in messages],
            [message.version for message in messages],
            np.stack([message.unpack() for message in messages]),
            model_version=messages[0].model_version,
            threads=1 if self._current else 0,  # the other cores are for requests, once there are some
            link=not self._current,  # after the catch-up they are to be found at once, and linked when there is time
        )
        if self._on_applied is not None:
            now = self._clock() * 1000
            for message, was in zip(messages, taken, strict=True):
                if was:
                    self._on_applied(message.id, now - message.source_time)

    def _apply_offer(self, record: Any) -> None:
        product_id = (record.key or b"").decode()
        if record.value is None:
            self._index.set_attributes(product_id, deleted_version(record), Attributes())
            return
        offer = self._connection.codec.decode(ProductOffer, record.value)
        if offer.id != product_id:
            raise ContractError("id", f"{offer.id} is not what the key names")
        taken = self._index.set_attributes(offer.id, offer.version, attributes_of_offer(offer))
        if taken and self._on_offer is not None:
            self._on_offer(offer.id, self._clock() * 1000 - offer.source_time)


def end_position(connection: Connection) -> dict[str, int]:
    """The position of an index that holds all that is on the topics now, as `IndexFollower.position`.

    Raises:
        TopicError: a topic does not exist.
        BrokerError: the broker cannot be reached.
    """
    consumer = connection.consumer()
    try:
        now = int(time.time() * 1000)
        logs = {topic: log_id(connection, topic) for topic in _FOLLOWED}
        return position(consumer.end_offsets(_find_partitions(consumer)), logs, now)
    except KafkaError as error:
        raise BrokerError(f"{' and '.join(_FOLLOWED)} cannot be read: {explained(error)}") from error
    finally:
        consumer.close()


def _find_partitions(consumer: KafkaConsumer) -> list[TopicPartition]:
    partitions = []
    for topic in _FOLLOWED:
        found = consumer.partitions_for_topic(topic)
        if not found:
            raise TopicError(
                f"topic {topic} does not exist, or this user may not see it; the consumers create the topics when they "
                "start"
            )
        partitions += [TopicPartition(topic, number) for number in sorted(found)]
    return partitions

"""`product.embeddings`: writing it, and following it into an index in memory.

A record's key is `<model version>/<product id>`, so that compaction keeps the last vector of each model version and
a rollback finds its own. A deletion has a null value; its product version travels in a header.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from inference.retrieval import RetrievalIndex
from streaming.contracts import SCHEMA_HEADER, SCHEMA_VERSION, ProductVector, decode_vector, encode
from streaming.errors import BrokerError, ContractError, TopicError
from streaming.kafka import (
    Connection,
    CorruptRecordError,
    KafkaError,
    KafkaProducer,
    TopicPartition,
    unreadable_partition,
)
from streaming.topics import PRODUCT_EMBEDDINGS

log = logging.getLogger(__name__)

_VERSION_HEADER = "sagelift-version"


class EmbeddingPublisher:
    """Puts vectors and deletions on the topic; returns when the broker has them all."""

    def __init__(self, producer: KafkaProducer) -> None:
        self._producer = producer

    def __call__(self, vectors: Sequence[tuple[str, str, int, ProductVector | None]]) -> None:
        """(model version, product id, product version, vector or None for a deletion) each.

        Raises:
            BrokerError: the broker did not take them all.
        """
        if not vectors:
            return
        try:
            sent = [
                self._producer.send(
                    PRODUCT_EMBEDDINGS,
                    key=f"{model_version}/{product_id}".encode(),
                    value=None if vector is None else encode(vector),
                    headers=[(SCHEMA_HEADER, SCHEMA_VERSION), (_VERSION_HEADER, str(version).encode())],
                )
                for model_version, product_id, version, vector in vectors
            ]
            self._producer.flush(30)
            for future in sent:
                future.get(30)
        except KafkaError as error:
            raise BrokerError(f"{len(vectors)} embeddings were not taken: {type(error).__name__}") from error


class IndexFollower:
    """Reads the topic from its beginning into an index of one model version, and stays on it. A thread of its own.

    Args:
        on_applied: called with the milliseconds from the update's arrival in Kafka to its being retrievable, for each
            vector applied that is new to this reader.
    """

    def __init__(
        self, connection: Connection, index: RetrievalIndex, on_applied: Callable[[str, float], None] | None = None
    ) -> None:
        self._connection, self._index, self._on_applied = connection, index, on_applied
        self._stop = threading.Event()
        self._progress = threading.Condition()
        self._asked = self._reached = 0  # how often `catch_up` was called, and up to which call it is done
        self._ended = False
        self._thread: threading.Thread | None = None

    def start(self) -> IndexFollower:
        """Begin to follow.

        Raises:
            TopicError: the topic does not exist.
            BrokerError: the broker cannot be reached.
        """
        self._consumer = self._connection.consumer(fetch_max_wait_ms=20, max_poll_records=2000)
        try:
            self._partitions = self._find_partitions()
            self._consumer.assign(self._partitions)
            self._consumer.seek_to_beginning(*self._partitions)
        except KafkaError as error:
            self._consumer.close()
            raise BrokerError(f"{PRODUCT_EMBEDDINGS} cannot be read: {type(error).__name__}") from error
        except TopicError:
            self._consumer.close()
            raise
        self._thread = threading.Thread(target=self._run, name="index-follower", daemon=True)
        self._thread.start()
        return self

    def _find_partitions(self) -> list[TopicPartition]:
        found = self._consumer.partitions_for_topic(PRODUCT_EMBEDDINGS)
        if not found:
            raise TopicError(
                f"topic {PRODUCT_EMBEDDINGS} does not exist; the consumers create the topics when they start"
            )
        return [TopicPartition(PRODUCT_EMBEDDINGS, p) for p in sorted(found)]

    def catch_up(self, timeout_s: float) -> bool:
        """Whether everything that is on the topic now is applied within the time."""
        with self._progress:
            self._asked += 1
            mine = self._asked
            self._progress.wait_for(lambda: self._reached >= mine or self._ended, timeout_s)
            return self._reached >= mine

    def close(self) -> None:
        """Stop following, if it ever began."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(10)

    def __enter__(self) -> IndexFollower:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        ends: dict[TopicPartition, int] = {}
        asked = 0  # what `ends` is the answer to
        try:
            while not self._stop.is_set():
                try:
                    for rows in self._consumer.poll(100).values():
                        for record in rows:
                            self._apply(record)
                    # Only this thread may use the consumer, so it looks the ends up for `catch_up`.
                    if asked != self._asked:
                        asked, ends = self._asked, self._consumer.end_offsets(self._partitions)
                    if self._reached < asked and all(self._consumer.position(tp) >= end for tp, end in ends.items()):
                        with self._progress:
                            self._reached = asked
                            self._progress.notify_all()
                except CorruptRecordError as error:
                    self._pass_damaged(error)
                except KafkaError as error:
                    log.warning("%s: %s; trying again", PRODUCT_EMBEDDINGS, type(error).__name__)
                    self._stop.wait(0.2)
        except Exception:
            log.exception("%s: the index no longer follows", PRODUCT_EMBEDDINGS)
        finally:
            with self._progress:
                self._ended = True
                self._progress.notify_all()
            self._consumer.close(timeout_ms=3_000)

    def _pass_damaged(self, error: CorruptRecordError) -> None:
        tp = unreadable_partition(error)
        if tp is None:
            raise error
        offset = self._consumer.position(tp)
        log.error("%s: offset %d of partition %d cannot be read and is passed", tp.topic, offset, tp.partition)
        self._consumer.seek(tp, offset + 1)

    def _apply(self, record: Any) -> None:
        """One record into the index; one that is not ours to read is skipped."""
        try:
            model_version, _, product_id = (record.key or b"").decode().partition("/")
            if model_version != self._index.model_version:
                return
            if record.value is None:
                self._index.remove(product_id, int(dict(record.headers)[_VERSION_HEADER]))
                return
            message = decode_vector(record.value)
            if (message.model_version, message.id) != (model_version, product_id):
                raise ContractError("id", f"{message.model_version}/{message.id} is not what the key names")
            applied = self._index.upsert(product_id, message.version, message.unpack())
        except (ValueError, KeyError) as error:
            where = f"{record.topic} {record.partition} {record.offset}"
            log.error("record %s is skipped: %s: %s", where, type(error).__name__, error)
            return
        if applied and self._on_applied is not None:
            self._on_applied(message.id, time.time() * 1000 - message.source_time)

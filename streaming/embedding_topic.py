"""`product.embeddings`: writing it, and following it into an index in memory.

A record's key is `<model version>/<product id>`, so that compaction keeps the last vector of each model version and
a rollback finds its own. A deletion has a null value; its product version travels in a header.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from inference.retrieval import RetrievalIndex
from streaming.contracts import SCHEMA_HEADER, SCHEMA_VERSION, ProductVector, decode_vector, encode
from streaming.errors import BrokerError, ContractError, TopicError
from streaming.kafka import Connection, KafkaError, KafkaProducer, TopicPartition
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
        self._index, self._on_applied = index, on_applied
        self._consumer = connection.consumer(fetch_max_wait_ms=20, max_poll_records=2000)
        found = self._consumer.partitions_for_topic(PRODUCT_EMBEDDINGS)
        if not found:
            self._consumer.close()
            raise TopicError(f"topic {PRODUCT_EMBEDDINGS} does not exist; create the topics with `sagelift topics`")
        self._partitions = [TopicPartition(PRODUCT_EMBEDDINGS, p) for p in sorted(found)]
        self._consumer.assign(self._partitions)
        self._consumer.seek_to_beginning(*self._partitions)
        self._end: dict[TopicPartition, int] | None = None
        self._stop = threading.Event()
        self._caught_up = threading.Event()
        self._thread = threading.Thread(target=self._run, name="index-follower", daemon=True)

    def start(self) -> IndexFollower:
        """Begin to follow."""
        self._thread.start()
        return self

    def catch_up(self, timeout_s: float) -> bool:
        """Whether everything that is on the topic now is applied within the time."""
        # The thread, which alone may use the consumer, looks the ends up: forgotten before the flag is lowered, so that
        # it cannot raise it again for the old ones.
        self._end = None
        self._caught_up.clear()
        return self._caught_up.wait(timeout_s)

    def close(self) -> None:
        """Stop following."""
        self._stop.set()
        self._thread.join(10)

    def __enter__(self) -> IndexFollower:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                try:
                    records = self._consumer.poll(100)
                except KafkaError as error:
                    log.warning("%s: %s; trying again", PRODUCT_EMBEDDINGS, type(error).__name__)
                    self._stop.wait(0.2)
                    continue
                for rows in records.values():
                    for record in rows:
                        self._apply(record)
                if not self._caught_up.is_set() and self._at_end():
                    self._caught_up.set()
        finally:
            self._consumer.close()

    def _at_end(self) -> bool:
        end = self._end
        if end is None:
            end = self._end = self._consumer.end_offsets(self._partitions)
        return all(self._consumer.position(tp) >= end[tp] for tp in self._partitions)

    def _apply(self, record: object) -> None:
        model_version, _, product_id = record.key.decode().partition("/")  # type: ignore[attr-defined]
        if model_version != self._index.model_version:
            return
        try:
            if record.value is None:  # type: ignore[attr-defined]
                headers = dict(record.headers)  # type: ignore[attr-defined]
                self._index.remove(product_id, int(headers[_VERSION_HEADER]))
                return
            message = decode_vector(record.value)  # type: ignore[attr-defined]
            applied = self._index.upsert(message.id, message.version, message.unpack())
        except (ContractError, ValueError, KeyError) as error:
            log.error("%s: record %s is skipped: %s", PRODUCT_EMBEDDINGS, record, error)
            return
        if applied and self._on_applied is not None:
            self._on_applied(message.id, time.time() * 1000 - message.source_time)

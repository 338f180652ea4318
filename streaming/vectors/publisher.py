"""Publish embeddings and offers on their compacted topics.

Compaction keeps the last record of each key. The key of an offer is the product id; the key of an embedding includes
the model version too, because a rollback needs the vectors of the older model. A deletion is a tombstone: a record
without a value, with the product version in a header.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

from streaming.contracts import ProductOffer, ProductVector
from streaming.kafka.codec import Codec
from streaming.kafka.compacted import NO_TRACES, publish
from streaming.kafka.connection import KafkaProducer
from streaming.kafka.topics import PRODUCT_EMBEDDINGS, PRODUCT_OFFERS


class OutgoingVector(NamedTuple):
    """A product's vector under one model version, or its tombstone (`message` is None)."""

    model_version: str
    product_id: str
    version: int
    message: ProductVector | None

    @property
    def key(self) -> str:
        """Key of the record: `<model version>/<product id>`."""
        return f"{self.model_version}/{self.product_id}"


class OutgoingOffer(NamedTuple):
    """A product's offer, or its tombstone (`message` is None)."""

    product_id: str
    version: int
    message: ProductOffer | None

    @property
    def key(self) -> str:
        """Key of the record: the product id."""
        return self.product_id


Outgoing = TypeVar("Outgoing", OutgoingVector, OutgoingOffer)
Outgoing_contra = TypeVar("Outgoing_contra", OutgoingVector, OutgoingOffer, contravariant=True)


class Publish(Protocol[Outgoing_contra]):
    """Publishes records, as `CompactedPublisher` does."""

    def __call__(self, records: Sequence[Outgoing_contra], /, traces: Mapping[str, bytes] = ...) -> None:
        """Send records; return when the broker has them all.

        Args:
            records: The records, in any order. It does no harm to publish a record again.
            traces: The `traceparent` of the update that caused a record, by product id. Some products have none.

        Raises:
            BrokerError: The broker did not accept all records.
        """


PublishVectors = Publish[OutgoingVector]
PublishOffers = Publish[OutgoingOffer]


class CompactedPublisher(Generic[Outgoing]):
    """Publishes the records of one compacted topic.

    Args:
        producer: Sends the records.
        codec: `Connection.codec` of the cluster that the producer sends to.
        topic: The compacted topic.
    """

    def __init__(self, producer: KafkaProducer, codec: Codec, topic: str) -> None:
        self._producer, self._codec, self._topic = producer, codec, topic

    def __call__(self, records: Sequence[Outgoing], /, traces: Mapping[str, bytes] = NO_TRACES) -> None:
        """Send records; see `Publish`."""
        rows = [
            (record.key, record.version, None if record.message is None else self._codec.encode(record.message))
            for record in records
        ]
        by_key = {r.key: traces[r.product_id] for r in records if r.product_id in traces} if traces else traces
        publish(self._producer, self._topic, rows, by_key)


def embedding_publisher(producer: KafkaProducer, codec: Codec) -> CompactedPublisher[OutgoingVector]:
    """Return the publisher of `product.embeddings`."""
    return CompactedPublisher(producer, codec, PRODUCT_EMBEDDINGS)


def offer_publisher(producer: KafkaProducer, codec: Codec) -> CompactedPublisher[OutgoingOffer]:
    """Return the publisher of `product.offers`."""
    return CompactedPublisher(producer, codec, PRODUCT_OFFERS)


def publish_until_current(
    records: Iterable[Outgoing],
    publish: Callable[[Sequence[Outgoing]], None],
    overtaken: Callable[[Mapping[str, Outgoing]], Iterable[Outgoing]],
) -> None:
    """Publish records, then publish again those that the store has overtaken, until the topic agrees with the store.

    The store refuses an older version; a topic cannot. Two processes may publish the same product: two consumers during
    a rebalance, a consumer and a re-embedding, or one consumer that reads updates again after a crash. Each process
    first publishes, then compares its records with the store. The process whose record is last on the topic compares
    after all others have written. So the last record of a product, which compaction keeps, agrees with the store.

    Args:
        records: What was just written to the store.
        publish: Sends records and returns when the broker has them all.
        overtaken: Receives the published records by key; returns a new record for each that differs from the store.

    Raises:
        BrokerError: The broker did not accept all records.
    """
    latest = {record.key: record for record in records}
    while latest:
        publish(list(latest.values()))
        latest = {record.key: record for record in overtaken(latest)}

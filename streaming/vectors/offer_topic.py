"""`product.offers`: what products are filtered by. Price, category and stock change far more often than vectors.

A record's key is the product id; a deletion has a null value and its product version in a header. Compacted, so that a
fresh reader finds the attributes of all live products, whenever they last changed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from feature_repo.rows import OfferRow, ProductFeatures
from inference.retrieval import Attributes
from streaming.contracts import ProductOffer
from streaming.kafka.codec import Codec
from streaming.kafka.compacted import NO_TRACES, publish
from streaming.kafka.connection import KafkaProducer
from streaming.kafka.topics import PRODUCT_OFFERS


def attributes_of_offer(offer: ProductOffer) -> Attributes:
    """Return the filter attributes that an offer message holds."""
    return attributes(offer, offer.product_type)


def attributes_of(product: ProductFeatures) -> Attributes:
    """What a stored product is filtered by."""
    return attributes(product, product.text.get("product_type", ""))


def attributes(offer: ProductFeatures | OfferRow | ProductOffer, product_type: str) -> Attributes:
    """What a product is filtered by that has this offer and is of this category."""
    return Attributes(
        amount_minor=offer.amount_minor,
        currency=offer.currency,
        product_type=product_type,
        availability=offer.availability,
    )


OutgoingOffer = tuple[str, int, Attributes | None]
"""(product id, product version, what it is filtered by or None for a deletion)."""


class PublishOffers(Protocol):
    """Puts what products are filtered by on the topic; see `OfferPublisher`."""

    def __call__(
        self,
        products: Sequence[OutgoingOffer],
        source_time: Callable[[str], int],
        traces: Mapping[str, bytes] = ...,
    ) -> None: ...


class OfferPublisher:
    """Publishes filter attributes and tombstones on the topic; a call returns when the broker has them all.

    Args:
        producer: Sends the records.
        codec: `Connection.codec` of the cluster that the producer sends to.
    """

    def __init__(self, producer: KafkaProducer, codec: Codec) -> None:
        self._producer, self._codec = producer, codec

    def __call__(
        self,
        products: Sequence[OutgoingOffer],
        source_time: Callable[[str], int],
        traces: Mapping[str, bytes] = NO_TRACES,
    ) -> None:
        """Once more does no harm.

        Args:
            source_time: by product id, when the update arrived in Kafka, in milliseconds; not asked of deletions.
            traces: by product id the `traceparent` of the update that is the cause, where it has one.

        Raises:
            BrokerError: the broker did not take them all.
        """
        rows = [
            (
                product_id,
                version,
                None
                if found is None
                else self._codec.encode(_offer(product_id, version, found, source_time(product_id))),
            )
            for product_id, version, found in products
        ]
        publish(self._producer, PRODUCT_OFFERS, rows, traces)


def _offer(product_id: str, version: int, found: Attributes, source_time: int) -> ProductOffer:
    return ProductOffer(
        id=product_id,
        version=version,
        amount_minor=found.amount_minor,
        currency=found.currency,
        product_type=found.product_type,
        availability=found.availability,
        source_time=source_time,
    )


class OfferStore(Protocol):
    """The part of `feature_repo.store.ProductFeatureStore` that offers are published from."""

    def versions(self, ids: Iterable[str]) -> Mapping[str, int]: ...
    def read_features(self, ids: Iterable[str]) -> Mapping[str, ProductFeatures]: ...


class ScannableOfferStore(OfferStore, Protocol):
    """A feature store that can be read from one end to the other."""

    def scan_features(self, batch: int) -> Iterator[list[ProductFeatures]]: ...


def publish_offers(
    offers: Sequence[OutgoingOffer],
    store: OfferStore,
    publish: Callable[[Sequence[OutgoingOffer], Callable[[str], int]], None],
    source_time: Callable[[str], int],
) -> None:
    """Publish what was just written to the store, and again what the store holds of a newer version when that is done.

    So the last record of a product on the topic, which alone outlives compaction, is never an older one: not when two
    consumers meet in a rebalance, and not when updates are read again after a crash.

    Raises:
        BrokerError: the broker did not take them all.
    """
    latest = {offer[0]: offer for offer in offers}
    while latest:
        publish(list(latest.values()), source_time)
        versions = store.versions(latest)
        overtaken = [product_id for product_id, version in versions.items() if version != latest[product_id][1]]
        latest = {i: offer_of(product) for i, product in store.read_features(overtaken).items()} if overtaken else {}


def publish_all_offers(store: ScannableOfferStore, publish: PublishOffers, *, batch: int = 2048) -> int:
    """Publish what all live products are filtered by; returns how many.

    For a catalogue that was there before the topic was. It may run beside the consumer, and again.

    Raises:
        BrokerError: the broker did not take them all.
    """

    def now(_: str) -> int:
        return int(time.time() * 1000)

    count = 0
    for products in store.scan_features(batch):
        publish_offers([offer_of(product) for product in products], store, publish, now)
        count += len(products)
    return count


def offer_of(product: ProductFeatures) -> OutgoingOffer:
    """What is to be on the topic of a stored product."""
    return product.id, product.version, None if product.deleted else attributes_of(product)

"""Offers: price, category and availability, by which searches filter. They change far more often than vectors.

An offer has three forms, and each conversion between them is here: the feature store has price and availability
(`OfferRow`) and the category among a product's texts; the topic `product.offers` carries all of them (`ProductOffer`);
the index filters by them (`Attributes`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from feature_repo.rows import OfferRow, ProductFeatures
from inference.retrieval import Attributes
from streaming.contracts import ProductOffer
from streaming.feature_store import FeatureReader, FeatureScanner
from streaming.vectors.publisher import OutgoingOffer, PublishOffers, publish_until_current


def offer_of(product: ProductFeatures, source_time: int) -> OutgoingOffer:
    """Return the record of a stored product for `product.offers`, a tombstone for a deleted one.

    Args:
        product: The stored product.
        source_time: When the update that caused the record arrived in Kafka, in milliseconds since the epoch.
    """
    if product.deleted:
        return OutgoingOffer(product.id, product.version, None)
    return offer_of_row(product, product.text.get("product_type", ""), source_time)


def offer_of_row(row: OfferRow | ProductFeatures, product_type: str, source_time: int) -> OutgoingOffer:
    """Return the record of a live product from its stored price and availability and its category.

    Args:
        row: The stored row.
        product_type: The product's category, a path: "Home > Lighting > Lamps".
        source_time: When the update that caused the record arrived in Kafka, in milliseconds since the epoch.
    """
    message = ProductOffer(
        id=row.id,
        version=row.version,
        amount_minor=row.amount_minor,
        currency=row.currency,
        product_type=product_type,
        availability=row.availability,
        source_time=source_time,
    )
    return OutgoingOffer(row.id, row.version, message)


def filter_attributes(offer: ProductOffer) -> Attributes:
    """Return the attributes by which the index filters."""
    return Attributes(
        amount_minor=offer.amount_minor,
        currency=offer.currency,
        product_type=offer.product_type,
        availability=offer.availability,
    )


def publish_offers(
    offers: Sequence[OutgoingOffer],
    store: FeatureReader,
    publish: Callable[[Sequence[OutgoingOffer]], None],
    clock: Callable[[], float] = time.time,
) -> None:
    """Publish the offers that were just written to the store; see `publish_until_current`.

    Args:
        offers: The offers.
        store: The feature store that they were written to.
        publish: Sends records and returns when the broker has them all.
        clock: Returns seconds since the epoch: the `source_time` of an offer that replaces a tombstone.

    Raises:
        BrokerError: The broker did not accept all records.
    """

    def overtaken(published: Mapping[str, OutgoingOffer]) -> Iterable[OutgoingOffer]:
        versions = store.versions(published)
        ids = [product_id for product_id, version in versions.items() if version != published[product_id].version]
        if not ids:
            return
        for product_id, product in store.read_features(ids).items():
            message = published[product_id].message
            yield offer_of(product, int(clock() * 1000) if message is None else message.source_time)

    publish_until_current(offers, publish, overtaken)


def publish_all_offers(store: FeatureScanner, publish: PublishOffers, *, batch: int = 2048) -> int:
    """Publish the offers of all live products; return their number.

    This is needed for a catalogue that is older than the topic. It may run beside the consumer, and more than once.

    Raises:
        BrokerError: The broker did not accept all records.
    """
    count = 0
    for products in store.scan_features(batch):
        now_ms = int(time.time() * 1000)
        publish_offers([offer_of(product, now_ms) for product in products], store, publish)
        count += len(products)
    return count

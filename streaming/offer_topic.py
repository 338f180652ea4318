"""`product.offers`: what products are filtered by. Price, category and stock change far more often than vectors.

A record's key is the product id; a deletion has a null value and its product version in a header. Compacted, so that a
fresh reader finds the attributes of all live products, whenever they last changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import msgspec

from feature_repo.rows import ProductFeatures
from inference.retrieval import Attributes
from streaming.compacted import publish
from streaming.contracts import ProductId, Version
from streaming.errors import ContractError
from streaming.kafka import KafkaProducer
from streaming.topics import PRODUCT_OFFERS


class ProductOffer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a product is filtered by, as published on `product.offers`.

    `source_time` is the broker's timestamp of the update that caused it, in milliseconds since the epoch.
    """

    id: ProductId
    version: Version
    amount_minor: int | None = None
    currency: str | None = None
    product_type: str = ""  # a path: "Home > Lighting > Lamps"
    availability: str | None = None
    source_time: int

    def attributes(self) -> Attributes:
        """As the index takes them."""
        return Attributes(
            amount_minor=self.amount_minor,
            currency=self.currency,
            product_type=self.product_type,
            availability=self.availability,
        )


def attributes_of(product: ProductFeatures) -> Attributes:
    """What a stored product is filtered by."""
    return Attributes(
        amount_minor=product.amount_minor,
        currency=product.currency,
        product_type=product.text.get("product_type", ""),
        availability=product.availability,
    )


class PublishOffers(Protocol):
    """Puts what products are filtered by on the topic; see `OfferPublisher`."""

    def __call__(
        self, products: Sequence[tuple[str, int, Attributes | None]], source_time: Callable[[str], int]
    ) -> None: ...


class OfferPublisher:
    """Puts what products are filtered by on the topic; returns when the broker has it all."""

    def __init__(self, producer: KafkaProducer) -> None:
        self._producer = producer

    def __call__(
        self, products: Sequence[tuple[str, int, Attributes | None]], source_time: Callable[[str], int]
    ) -> None:
        """(product id, product version, attributes or None for a deletion) each. Once more does no harm.

        Args:
            source_time: by product id, when the update arrived in Kafka, in milliseconds; not asked of deletions.

        Raises:
            BrokerError: the broker did not take them all.
        """
        rows = [
            (
                product_id,
                version,
                None if found is None else _encode(product_id, version, found, source_time(product_id)),
            )
            for product_id, version, found in products
        ]
        publish(self._producer, PRODUCT_OFFERS, rows)


def _encode(product_id: str, version: int, found: Attributes, source_time: int) -> bytes:
    offer = ProductOffer(
        id=product_id,
        version=version,
        amount_minor=found.amount_minor,
        currency=found.currency,
        product_type=found.product_type,
        availability=found.availability,
        source_time=source_time,
    )
    return msgspec.json.encode(offer)


class StoredOffer(Protocol):
    """What the feature store holds of a product's offer, and its category: `feature_repo.rows.OfferRow`."""

    @property
    def version(self) -> int: ...
    @property
    def deleted(self) -> bool: ...
    @property
    def amount_minor(self) -> int | None: ...
    @property
    def currency(self) -> str | None: ...
    @property
    def product_type(self) -> str: ...
    @property
    def availability(self) -> str | None: ...


class OfferStore(Protocol):
    """The part of `feature_repo.store.ProductFeatureStore` that offers are published from."""

    def read_offers(self, ids: Iterable[str]) -> Mapping[str, StoredOffer]: ...


def publish_offers(
    product_ids: Iterable[str], store: OfferStore, publish: PublishOffers, source_time: Callable[[str], int]
) -> None:
    """Publish what the store holds of these products, and again what it holds otherwise when that is done.

    So the last record of a product on the topic, which alone outlives compaction, is never an older one: not when two
    consumers meet in a rebalance, and not when updates are read again after a crash.

    Raises:
        BrokerError: the broker did not take them all.
    """
    pending = store.read_offers(product_ids)
    while pending:
        publish([(i, row.version, _stored_attributes(row)) for i, row in pending.items()], source_time)
        now = store.read_offers(pending)
        pending = {i: row for i, row in now.items() if row.version != pending[i].version}


def _stored_attributes(row: StoredOffer) -> Attributes | None:
    if row.deleted:
        return None
    return Attributes(
        amount_minor=row.amount_minor,
        currency=row.currency,
        product_type=row.product_type,
        availability=row.availability,
    )


_decoder = msgspec.json.Decoder(ProductOffer)


def decode_offer(raw: bytes) -> ProductOffer:
    """Decode one record of `product.offers` (not a deletion, which has no value). Unknown fields are passed over.

    Raises:
        ContractError: names the field and the rule.
    """
    try:
        return _decoder.decode(raw)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        raise ContractError(path.strip("`.") if path else "", message) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ContractError("", f"not JSON: {error}") from None

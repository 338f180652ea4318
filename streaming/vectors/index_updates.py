"""Apply records of `product.embeddings` and `product.offers` to an index."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from inference.retrieval import Attributes, RetrievalIndex
from streaming.contracts import ProductOffer, ProductVector
from streaming.errors import ContractError
from streaming.kafka.codec import Codec
from streaming.kafka.compacted import deleted_version
from streaming.kafka.topics import PRODUCT_OFFERS
from streaming.vectors.offers import filter_attributes

log = logging.getLogger(__name__)

OnApplied = Callable[[str, float], None]
"""Receives a product id, and the milliseconds from the update's arrival in Kafka until searches find the change."""


class IndexUpdater:
    """Applies records to the index of one model version.

    Args:
        index: The index.
        codec: `Connection.codec` of the cluster that the records come from.
        on_vector: Called for each vector that the index accepts: one that is not older than the index's. A record that
            is delivered again is accepted again.
        on_offer: Called for each offer that the index accepts, likewise.
        clock: Returns seconds since the epoch.
    """

    def __init__(
        self,
        index: RetrievalIndex,
        codec: Codec,
        on_vector: OnApplied | None = None,
        on_offer: OnApplied | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._index, self._codec, self._clock = index, codec, clock
        self._on_vector, self._on_offer = on_vector, on_offer

    def apply(self, records: Sequence[Any], *, serving: bool) -> None:
        """Apply records; log and skip those that are invalid, and skip those of other model versions.

        Args:
            records: Records as kafka-python returns them, oldest first within a partition.
            serving: Whether the index answers searches already. Then new vectors are found at once and linked into the
                graph later, on one core; before, they are linked right away, on all cores.

        Raises:
            RegistryError: The schema registry does not answer; apply the same records again later.
        """
        newest: dict[str, tuple[int, ProductVector | None]] = {}
        for record in records:
            try:
                if record.topic == PRODUCT_OFFERS:
                    self._apply_offer(record)
                elif (change := self._read_vector(record)) is not None:
                    product_id, version, vector = change
                    if product_id not in newest or version >= newest[product_id][0]:
                        newest[product_id] = version, vector
            except (ValueError, KeyError) as error:
                place = f"{record.topic} {record.partition} {record.offset}"
                log.error("record %s is skipped: %s: %s", place, type(error).__name__, error)
        for product_id, (version, vector) in newest.items():
            if vector is None:
                self._index.remove(product_id, version)
        self._apply_vectors([vector for _, vector in newest.values() if vector is not None], serving)

    def _read_vector(self, record: Any) -> tuple[str, int, ProductVector | None] | None:
        """Return product id, version, and vector or None for a tombstone; None for another model version."""
        model_version, _, product_id = (record.key or b"").decode().partition("/")
        if model_version != self._index.model_version:
            return None
        if record.value is None:
            return product_id, deleted_version(record), None
        message = self._codec.decode(ProductVector, record.value)
        if (message.model_version, message.id) != (model_version, product_id):
            raise ContractError("id", f"{message.model_version}/{message.id} does not match the record's key")
        vector = message.unpack()
        if not np.isfinite(vector).all() or not vector.any():
            raise ContractError("vector", "must be finite numbers, not all zero")
        return product_id, message.version, message

    def _apply_vectors(self, messages: Sequence[ProductVector], serving: bool) -> None:
        if not messages:
            return
        accepted = self._index.upsert_many(
            [message.id for message in messages],
            [message.version for message in messages],
            np.stack([message.unpack() for message in messages]),
            model_version=messages[0].model_version,
            threads=1 if serving else 0,
            link=not serving,
        )
        if self._on_vector is not None:
            now_ms = self._clock() * 1000
            for message, is_accepted in zip(messages, accepted, strict=True):
                if is_accepted:
                    self._on_vector(message.id, now_ms - message.source_time)

    def _apply_offer(self, record: Any) -> None:
        product_id = (record.key or b"").decode()
        if record.value is None:
            self._index.set_attributes(product_id, deleted_version(record), Attributes())
            return
        offer = self._codec.decode(ProductOffer, record.value)
        if offer.id != product_id:
            raise ContractError("id", f"{offer.id} does not match the record's key")
        accepted = self._index.set_attributes(offer.id, offer.version, filter_attributes(offer))
        if accepted and self._on_offer is not None:
            self._on_offer(offer.id, self._clock() * 1000 - offer.source_time)

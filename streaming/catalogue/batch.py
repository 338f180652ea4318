"""A batch of catalogue updates on its way through the stages. No stage changes the input that it got."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from feature_repo.rows import Deletion, ProductFeatures
from streaming.catalogue.merging import applicable_updates
from streaming.contracts import ProductUpdate
from streaming.dead_letters.writer import FailedRecord
from streaming.vectors.publisher import OutgoingOffer, OutgoingVector


class Received(msgspec.Struct, frozen=True):
    """A decoded update and its record."""

    record: Any
    update: ProductUpdate


Updates = Mapping[str, Sequence[Received]]
"""The updates of a batch by product id, in the order of their offsets."""


class BatchResult(msgspec.Struct):
    """The result of a batch.

    Attributes:
        dead_letters: Records to send to the dead letters.
        counts: Number of updates or products by result (embedded, stale, features_text, refused_decode, ...).
        unknown_fields: Number of dropped fields by name.
    """

    dead_letters: list[FailedRecord] = []
    counts: Counter[str] = msgspec.field(default_factory=Counter)
    unknown_fields: Counter[str] = msgspec.field(default_factory=Counter)

    def refuse(self, record: Any, stage: str, error: Exception) -> None:
        """Add a dead letter."""
        self.dead_letters.append(FailedRecord(record, stage, type(error).__name__, str(error)))
        self.counts[f"refused_{stage}"] += 1

    @staticmethod
    def total(parts: Iterable[BatchResult]) -> BatchResult:
        """Return the sum of the parts as a new result."""
        total = BatchResult()
        for part in parts:
            total.dead_letters += part.dead_letters
            total.counts.update(part.counts)
            total.unknown_fields.update(part.unknown_fields)
        return total


class FeatureChanges(msgspec.Struct):
    """What was written to the feature store for some products.

    Attributes:
        result: Counts and dead letters of the writing.
        products: Live products whose model inputs may differ from those of their embedding.
        changed_by: Record of the last update that was applied, by product id.
        deletions: Tombstones that the store accepted.
        offers: Offers that changed, or that may not be published yet.
        offers_only: Ids of settled products that had only offer updates.
    """

    result: BatchResult = msgspec.field(default_factory=BatchResult)
    products: list[ProductFeatures] = []
    changed_by: dict[str, Any] = {}
    deletions: list[Deletion] = []
    offers: list[OutgoingOffer] = []
    offers_only: list[str] = []

    @staticmethod
    def total(parts: Sequence[FeatureChanges]) -> FeatureChanges:
        """Return the union of the changes of different products."""
        return FeatureChanges(
            result=BatchResult.total(part.result for part in parts),
            products=[product for part in parts for product in part.products],
            changed_by={product_id: record for part in parts for product_id, record in part.changed_by.items()},
            deletions=[deletion for part in parts for deletion in part.deletions],
            offers=[offer for part in parts for offer in part.offers],
            offers_only=[product_id for part in parts for product_id in part.offers_only],
        )


class FeatureBatch(msgspec.Struct, frozen=True):
    """A batch after the features stage.

    Attributes:
        received: The decoded updates.
        changes: What was written.
        result: The result so far.
        settled_model: Model version for which the fast path was taken; None if no product was settled.
    """

    received: Updates
    changes: FeatureChanges
    result: BatchResult
    settled_model: str | None

    def cause_of(self, product_id: str) -> Any:
        """Return the record that becomes the dead letter if this product fails."""
        return self.changes.changed_by.get(product_id) or self.received[product_id][-1].record


class EmbeddedBatch(msgspec.Struct, frozen=True):
    """A batch after the embeddings stage.

    Attributes:
        features: The batch before this stage.
        result: The result so far.
        products: Live products whose embedding was checked.
        model_version: Model version of the embeddings; None before the first release.
        vectors: Vectors and tombstones to publish.
        rejected: Ids of products that the model rejects.
    """

    features: FeatureBatch
    result: BatchResult
    products: Sequence[ProductFeatures]
    model_version: str | None
    vectors: Sequence[OutgoingVector]
    rejected: Collection[str]


def oldest_version(received: Sequence[Received]) -> int:
    """Return the smallest version among a product's updates of a batch."""
    return min(r.update.version for r in received)


def first_arrival(received: Sequence[Received]) -> int:
    """Return the arrival time of a product's earliest update that this batch applies, in milliseconds since the epoch.

    Updates before the last full statement are ignored: they are superseded. A stale update is included, because it may
    have been applied before a crash.

    Args:
        received: The product's updates of the batch.
    """
    if len(received) == 1:
        return int(received[0].record.timestamp)
    applicable, _ = applicable_updates([r.update for r in received], 0)
    kept = {id(update) for update in applicable}
    return min(int(r.record.timestamp) for r in received if id(r.update) in kept)


def halves(received: Updates) -> list[Updates]:
    """Split the updates in two by product, or those of a single product by update; empty for a single update."""
    items: list[tuple[str, Sequence[Received]]] = list(received.items())
    if len(items) == 1:
        ((product_id, updates),) = items
        items = [(product_id, [update]) for update in updates]
    if len(items) < 2:
        return []
    middle = len(items) // 2
    return [_grouped(items[:middle]), _grouped(items[middle:])]


def _grouped(items: Iterable[tuple[str, Sequence[Received]]]) -> Updates:
    grouped: dict[str, Sequence[Received]] = {}
    for product_id, updates in items:
        grouped[product_id] = [*grouped.get(product_id, ()), *updates]
    return grouped

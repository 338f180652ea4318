"""The features stage: merge the updates of each product and write what changed, images included."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from feature_repo.errors import InvalidFeatureError
from feature_repo.rows import ALL_VIEWS, Deletion, ProductFeatures
from inference.errors import InputError
from streaming.catalogue.batch import BatchResult, FeatureChanges, Received, Updates, first_arrival, halves
from streaming.catalogue.images.product_images import ImageVector, ProductImages, refuse_images
from streaming.catalogue.merging import Product, applicable_updates, changed_views, merge, offer_changed
from streaming.catalogue.offer_updates import write_offer_updates
from streaming.catalogue.settled import SettledProducts
from streaming.errors import ContractError, ImageError
from streaming.feature_store import CatalogStore
from streaming.vectors.offers import offer_of
from streaming.vectors.publisher import OutgoingOffer


class _Change(msgspec.Struct):
    """A product after its updates of a batch, and the record of the last update that was applied."""

    product: Product
    record: Any


class _PlannedRow(msgspec.Struct):
    """Features to write for one product, and the images that could not be fetched."""

    row: ProductFeatures
    views: tuple[str, ...]
    image_errors: Mapping[str, ImageError]


class FeatureWriter:
    """Writes the features of a batch.

    Args:
        store: The feature store.
        images: Loads the images of products.
        settled: The settled products. `write` removes those that change, and raises the versions of those on the fast
            path.
    """

    def __init__(self, store: CatalogStore, images: ProductImages, settled: SettledProducts) -> None:
        self._store, self._images, self._settled = store, images, settled

    def write(self, received: Updates) -> FeatureChanges:
        """Write the features of these products.

        If the store refuses the batch, it is halved until the update at fault is alone; that one becomes a dead letter.
        """
        try:
            return self._write_batch(received)
        except (InvalidFeatureError, InputError) as error:
            changes = FeatureChanges.total([self.write(half) for half in halves(received)])
            if len(received) == 1:
                (updates,) = received.values()
                # The halves hold only some of the product's updates, but its age counts from the first of them all.
                changes.offers = [_as_of(offer, first_arrival(updates)) for offer in changes.offers]
                if len(updates) == 1:
                    changes.result.refuse(updates[0].record, "store", error)
            return changes

    def _write_batch(self, received: Updates) -> FeatureChanges:
        if self._settled.visual_version != self._images.visual_version:
            return self._write_general(received)
        offers = write_offer_updates(received, self._settled, self._store)
        finished = set(offers.offers_only)
        rest = {product_id: updates for product_id, updates in received.items() if product_id not in finished}
        return FeatureChanges.total([offers, self._write_general(rest)]) if rest else offers

    def _write_general(self, received: Updates) -> FeatureChanges:
        """Write products on the general path: read all features, merge, load images, write by view."""
        if not received:
            return FeatureChanges()
        self._settled.forget(received)
        result = BatchResult()
        stored = self._store.read_features(received)
        changes = self._changes(stored, received, result)
        live = {product_id: change.product for product_id, change in changes.items() if not change.product.deleted}
        written = self._write_features(stored, live, received, result)
        deletions = self._delete([c.product for c in changes.values() if c.product.deleted], result)
        return FeatureChanges(
            result=result,
            # Also unchanged products: before a crash their features may have been written without an embedding.
            products=[*written, *(p for i, p in stored.items() if i not in changes and not p.deleted)],
            changed_by={product_id: change.record for product_id, change in changes.items()},
            deletions=deletions,
            offers=[
                *(
                    offer_of(p, first_arrival(received[p.id]))
                    for p in written
                    if _must_publish_offer(stored.get(p.id), p, received[p.id])
                ),
                *(OutgoingOffer(deletion.id, deletion.version, None) for deletion in deletions),
            ],
        )

    def _changes(
        self, stored: Mapping[str, ProductFeatures], received: Updates, result: BatchResult
    ) -> dict[str, _Change]:
        changes: dict[str, _Change] = {}
        for product_id, updates in received.items():
            before = stored.get(product_id)
            if change := _merged(before, updates, result):
                changes[product_id] = change
            elif before and self._images.links_to_fetch(before, Product.of(before), updates):
                changes[product_id] = _Change(Product.of(before), updates[-1].record)
        return changes

    def _write_features(
        self,
        stored: Mapping[str, ProductFeatures],
        products: Mapping[str, Product],
        received: Updates,
        result: BatchResult,
    ) -> list[ProductFeatures]:
        """Write what changed, view by view; return the products as they now are, without stale ones."""
        links = {i: self._images.links_to_fetch(stored.get(i), p, received[i]) for i, p in products.items()}
        fetched = self._images.fetch(list(dict.fromkeys(link for some in links.values() for link in some)))
        planned = [
            self._plan(stored.get(i), product, {link: fetched[link] for link in links[i]})
            for i, product in products.items()
        ]
        by_views: dict[tuple[str, ...], list[ProductFeatures]] = defaultdict(list)
        for plan in planned:
            # The version is recorded even if nothing changed: an older update must not pass later.
            by_views[plan.views or ("offer",)].append(plan.row)
            result.counts["features_" + ("_".join(plan.views) or "unchanged")] += 1
        stale: set[str] = set()
        for views, rows in by_views.items():
            stale |= self._store.write_features(rows, views)
        result.counts["stale"] += len(stale)
        errors = {plan.row.id: plan.image_errors for plan in planned}
        written = [row for rows in by_views.values() for row in rows if row.id not in stale]
        for row in written:
            refuse_images(errors[row.id], received[row.id], result)
        return written

    def _plan(
        self, before: ProductFeatures | None, product: Product, fetched: Mapping[str, ImageVector | ImageError]
    ) -> _PlannedRow:
        changed = set(changed_views(before, product, self._images.visual_version))
        if fetched:
            changed.add("images")
        row = _features(product, before)
        if "images" in changed:
            images = self._images.present(before)
            images |= {link: image for link, image in fetched.items() if not isinstance(image, ImageError)}
            self._images.put(row, product.links, images)
        errors = {link: image for link, image in fetched.items() if isinstance(image, ImageError)}
        return _PlannedRow(row, tuple(view for view in ALL_VIEWS if view in changed), errors)

    def _delete(self, products: Sequence[Product], result: BatchResult) -> list[Deletion]:
        """Write tombstones; return those that the store accepted."""
        if not products:
            return []
        deletions = [Deletion(id=p.id, version=p.version, event_time=p.event_time) for p in products]
        stale = self._store.delete(deletions)
        result.counts["stale"] += len(stale)
        result.counts["deleted"] += len(deletions) - len(stale)
        return [deletion for deletion in deletions if deletion.id not in stale]


def _merged(stored: ProductFeatures | None, received: Sequence[Received], result: BatchResult) -> _Change | None:
    """Return the product after its updates of this batch; None if no update applies."""
    updates, stale = applicable_updates([r.update for r in received], stored.version if stored else 0)
    result.counts["stale"] += stale
    record_of = {id(r.update): r.record for r in received}
    product = Product.of(stored) if stored else None
    last = None
    for update in updates:
        record = record_of[id(update)]
        try:
            product = merge(product, update)
        except ContractError as error:
            result.refuse(record, "merge", error)
            continue
        last = record
    if product is None or last is None:
        return None
    return _Change(product, last)


def _as_of(offer: OutgoingOffer, source_time: int) -> OutgoingOffer:
    message = offer.message
    return (
        offer if message is None else offer._replace(message=msgspec.structs.replace(message, source_time=source_time))
    )


def _must_publish_offer(before: ProductFeatures | None, after: ProductFeatures, received: Sequence[Received]) -> bool:
    """Return whether the product's filter attributes must be published.

    True also for an update that the store already has: a crash may have prevented its publishing.
    """
    if before is None or before.deleted or any(r.update.version == before.version for r in received):
        return True
    return offer_changed(before, after) or before.text["product_type"] != after.text["product_type"]


def _features(product: Product, images_from: ProductFeatures | None) -> ProductFeatures:
    row = ProductFeatures(
        id=product.id,
        version=product.version,
        event_time=product.event_time,
        text=product.text,
        amount_minor=product.amount_minor,
        currency=product.currency,
        availability=product.availability,
    )
    if images_from is not None:
        row.image_urls, row.image_hashes = images_from.image_urls, images_from.image_hashes
        row.image_vectors, row.visual_version = images_from.image_vectors, images_from.visual_version
    return row

"""The fast path of the features stage: updates that change nothing but price and availability of settled products."""

from __future__ import annotations

from feature_repo.rows import OfferRow
from streaming.catalogue.batch import FeatureChanges, Updates, first_arrival
from streaming.catalogue.merging import applicable_updates, is_offer_patch, merge_offer, offer_changed
from streaming.catalogue.settled import SettledProducts
from streaming.feature_store import CatalogStore
from streaming.vectors.offers import offer_of_row
from streaming.vectors.publisher import OutgoingOffer


def write_offer_updates(received: Updates, settled: SettledProducts, store: CatalogStore) -> FeatureChanges:
    """Write the offers of the products that can take the fast path.

    A product can take it if all its updates are offer patches and its stored version is the version at which it was
    settled. Then no image is missing and its embedding is up to date.

    Args:
        received: The updates of the batch.
        settled: The settled products; those that were written advance to their new versions.
        store: The feature store.

    Returns:
        The changes. Products that are not in `offers_only` must take the general path.
    """
    changes = FeatureChanges()
    candidates = {
        product_id: updates
        for product_id, updates in received.items()
        if product_id in settled and all(is_offer_patch(r.update) for r in updates)
    }
    if not candidates:
        return changes
    counts = changes.result.counts
    rows: list[OfferRow] = []
    due: list[OutgoingOffer] = []
    for product_id, before in store.read_offers(candidates).items():
        product = settled.at(product_id, before.version)
        if before.deleted or product is None:
            continue
        updates, stale = applicable_updates([r.update for r in candidates[product_id]], before.version)
        counts["stale"] += stale
        changes.offers_only.append(product_id)
        if not updates:
            continue
        row = merge_offer(before, updates)
        changed = offer_changed(before, row)
        counts["features_offer" if changed else "features_unchanged"] += 1
        rows.append(row)
        # An update that the store already has is published again: a crash may have stopped the consumer after it was
        # written and before it was published.
        if changed or updates[0].version == before.version:
            due.append(offer_of_row(row, product.product_type, first_arrival(candidates[product_id])))
    refused = store.write_offers(rows)
    settled.advance({row.id: row.version for row in rows if row.id not in refused})
    changes.offers = [offer for offer in due if offer.product_id not in refused]
    counts["stale"] += len(refused)
    counts["embedding_unchanged"] += len(changes.offers_only)
    return changes

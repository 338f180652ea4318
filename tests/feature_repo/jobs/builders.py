"""Histories of the offer view, and runs over it, for tests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from feature_repo.jobs.materialize import materialize
from feature_repo.jobs.summary import Summary, ViewSummary
from feature_repo.store import ProductFeatureStore
from feature_repo.views import PRODUCT_FORMATS, history_table
from tests.feature_repo.builders import NOON, make_product

OFFERS = "product_offer"


def offers(store: ProductFeatureStore, versions: dict[str, int], **changes: Any) -> None:
    """Append one part with these products to the history, and write nothing online."""
    rows = [make_product(id, version, **changes) for id, version in versions.items()]
    history = store.history(OFFERS)
    history.append(history_table(PRODUCT_FORMATS[OFFERS], history.schema, rows, NOON))


def online_versions(store: ProductFeatureStore, ids: Iterable[str]) -> dict[str, int]:
    return {id: offer.version for id, offer in store.read_offers(ids).items()}


def only(summary: Summary) -> ViewSummary:
    (view,) = summary.views
    return view


def run(store: ProductFeatureStore, **options: Any) -> ViewSummary:
    return only(materialize(store, views=[OFFERS], **options))

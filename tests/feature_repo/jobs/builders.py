"""Histories of the offer view, and runs over it, for tests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from feature_repo.jobs.materialize import materialize
from feature_repo.jobs.shards import WrittenShard
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


def written(number: int, versions: dict[str, int], created: int = 0) -> WrittenShard:
    """A shard that is online, with these versions by id."""
    created_us = (1_700_000_000 + created) * 1_000_000 + 123_457
    return WrittenShard(
        number=number,
        ids=pa.array(list(versions)),
        versions=pa.array(list(versions.values()), pa.int64()),
        created_us=pa.array([created_us] * len(versions), pa.int64()),
        checksums=[7] * len(versions),
        kept=0,
        event_us=(0, 0),
    )

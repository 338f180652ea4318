"""`features status` reports a feed that is late, incomplete, or wrong."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_repo import views
from feature_repo.definitions import FIXED_VIEWS
from feature_repo.errors import HistoryError, InvalidFeatureError
from feature_repo.monitoring.findings import Thresholds, findings
from feature_repo.monitoring.watch import ViewStatus, watch
from feature_repo.recent import Engagement
from feature_repo.rows import TEXT_FIELDS, Deletion
from feature_repo.store import ProductFeatureStore
from feature_repo.times import to_microseconds
from tests.feature_repo.builders import NOON, make_embedding, make_product

NOW = NOON + timedelta(hours=1)


def status(store: ProductFeatureStore, view: str, **options: Any) -> ViewStatus:
    (result,) = watch(store, now=NOW, views=[view], **options)
    return result


def test_an_empty_store_has_no_ages_and_passes_every_limit(store: ProductFeatureStore) -> None:
    statuses = watch(store, now=NOW)
    assert [s.view for s in statuses] == list(FIXED_VIEWS)
    assert all((s.products, s.online_rows, s.age_s, s.age_p50_s, s.sampled) == (0, 0, None, None, 0) for s in statuses)
    assert findings(statuses, Thresholds(max_age=timedelta(0), max_empty={"title": 0.0}, norm_tolerance=0.0)) == []


def test_ages_are_of_event_times_of_the_newest_version(store: ProductFeatureStore) -> None:
    """10 products, changed 1 to 10 minutes ago; older versions and a late old event do not count."""
    store.write_features([make_product(f"p{i}", 1, event_time=NOW - timedelta(days=9)) for i in range(1, 11)])
    store.write_features([make_product(f"p{i}", 3, event_time=NOW - timedelta(minutes=i)) for i in range(1, 11)])
    store.write_features([make_product("p1", 2, event_time=NOW)])
    reported = status(store, "product_offer")
    assert (reported.products, reported.deleted, reported.history_rows, reported.parts) == (10, 0, 21, 4)
    assert reported.newest_event == NOW - timedelta(minutes=1)
    assert (reported.age_s, reported.age_p50_s, reported.age_p90_s) == (60.0, 360.0, 600.0)
    assert reported.online_rows == 10


def test_a_deletion_is_news_but_no_live_product(store: ProductFeatureStore) -> None:
    store.write_features([make_product(id, event_time=NOW - timedelta(hours=2)) for id in "ab"])
    store.delete([Deletion(id="a", version=2, event_time=NOW - timedelta(seconds=30))])
    reported = status(store, "product_text")
    assert (reported.products, reported.deleted, reported.online_rows) == (1, 1, 2)
    assert (reported.age_s, reported.age_p50_s) == (30.0, 7200.0)


def test_empty_features_are_counted_over_live_products(store: ProductFeatureStore) -> None:
    texts = dict.fromkeys(TEXT_FIELDS, "x")
    store.write_features([make_product(id, 1, text=texts | {"brand": ""}, images=0) for id in "abc"])
    store.write_features([make_product("d", 1, text=texts, currency=None)])
    store.delete([Deletion(id="a", version=2, event_time=NOON)])
    text, images, offer, _ = watch(store, now=NOW)
    assert text.empty_rates == {name: 2 / 3 if name == "brand" else 0.0 for name in TEXT_FIELDS}
    assert images.empty_rates == {"urls": 2 / 3, "hashes": 2 / 3, "vectors": 2 / 3, "visual_version": 0.0}
    assert offer.empty_rates["currency"] == 1 / 3
    limits = Thresholds(max_empty={"brand": 0.5, "title": 0.0})
    assert findings([text, offer], limits) == ["product_text: brand is empty in 66.7% of the products, over 50.0%"]


def test_lengths_of_vectors_are_measured(store: ProductFeatureStore) -> None:
    store.ensure_model_version("m1")
    unit = make_embedding("a").vector
    rows = [make_embedding("a"), make_embedding("b", vector=unit * np.float32(0.5)), make_embedding("c", 2)]
    store.write_embeddings("m1", rows)
    store.delete([Deletion(id="c", version=3, event_time=NOON)])
    norms = status(store, "product_embedding_m1").norms
    assert norms is not None
    assert (norms.smallest, norms.mean, norms.largest) == pytest.approx((0.5, 0.75, 1.0), abs=1e-6)
    listed = findings([status(store, "product_embedding_m1")], Thresholds(norm_tolerance=0.01))
    assert listed == ["product_embedding_m1: the length of a vector differs from 1 by 0.5, over 0.01"]
    assert status(store, "product_text").norms is None


def test_a_sample_is_about_as_large_as_requested(store: ProductFeatureStore) -> None:
    store.write_features([make_product(f"p{i}", images=0) for i in range(400)])
    reported = status(store, "product_offer", sample=100)
    assert reported.products == 400
    assert 60 <= reported.sampled <= 140


def test_parts_with_other_columns_are_named(store: ProductFeatureStore) -> None:
    store.write_features([make_product("a")])
    part = store.history("product_offer").parts()[-1]
    table = pq.read_table(part, partitioning=None)
    narrower = table.drop_columns(["currency"]).append_column("color", pa.array(["red"]))
    pq.write_table(narrower.set_column(3, "amount_minor", table["amount_minor"].cast(pa.float64())), part)
    reported = status(store, "product_offer")
    assert [line.removeprefix(f"product_offer: {part.name} ") for line in reported.schema_drift] == [
        "lacks currency",
        "has color, which the view does not have",
        "has amount_minor as double, the view as int64",
    ]
    assert findings([reported], Thresholds()) == reported.schema_drift


def test_products_are_counted_by_the_age_of_their_last_change(store: ProductFeatureStore) -> None:
    ages = [timedelta(seconds=59), timedelta(seconds=60), timedelta(hours=5), timedelta(days=40), timedelta(days=50)]
    store.write_features([make_product(f"p{i}", event_time=NOW - age) for i, age in enumerate(ages)])
    store.delete([Deletion(id="p4", version=2, event_time=NOW)])
    assert status(store, "product_text").age_counts == [1, 1, 0, 1, 0, 0, 0, 1]


def test_shoppers_lists_are_watched_by_their_last_event(store: ProductFeatureStore) -> None:
    us = to_microseconds(NOW)
    store.add_engagements([Engagement("u", "a", us - 5_000_000), Engagement("v", "b", us - 9_000_000)])
    store.add_engagements([Engagement("u", "b", us - 1_000_000)])
    reported = status(store, "user_recent")
    assert (reported.products, reported.history_rows, reported.age_s, reported.age_p99_s) == (2, 3, 1.0, 9.0)
    assert reported.empty_rates == {"product_ids": 0.0, "event_times": 0.0}


def test_a_feature_that_no_part_has_yet_is_empty_everywhere(
    store: ProductFeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after the view was widened, before the products are written again."""
    store.write_features([make_product("a")])
    form = views.PRODUCT_FORMATS["product_offer"]
    monkeypatch.setitem(
        views.FIXED_FORMATS, "product_offer", form._replace(types={**form.types, "condition": pa.string()})
    )
    reported = status(store, "product_offer")
    assert reported.empty_rates["condition"] == 1.0
    assert reported.empty_rates["currency"] == 0.0
    assert all(line.endswith("lacks condition") for line in reported.schema_drift)


def test_an_unknown_view_is_named(store: ProductFeatureStore) -> None:
    with pytest.raises(InvalidFeatureError, match=r"Unknown views \['offers'\]: the views are product_text"):
        watch(store, now=NOW, views=["offers"])


def test_a_half_written_part_is_named(store: ProductFeatureStore) -> None:
    (store.history("product_offer").folder / "part-x.parquet").write_bytes(b"PAR1")
    with pytest.raises(HistoryError, match=r"part-x\.parquet cannot be read"):
        status(store, "product_offer")

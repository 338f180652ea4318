from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feature_repo.definitions import EMBEDDING_PREFIX, FIXED_VIEWS
from feature_repo.errors import HistoryError, InvalidFeatureError, StoreStateError, UnknownModelVersionError
from feature_repo.rows import Deletion, OfferRow, ProductFeatures
from tests.feature_repo.builders import NOON, make_embedding, make_product, same

VIEWS = ("text", "images", "offer")


def deletion(id: str = "a1", version: int = 2) -> Deletion:
    return Deletion(id=id, version=version, event_time=NOON)


def parts(store: Any) -> int:
    return sum(1 for _ in store.home.glob("history/*/*.parquet"))


def test_what_was_written_is_read_bit_for_bit(store: Any) -> None:
    products = [
        make_product("a1", 3),
        make_product("ü 靴", 1, images=20),
        make_product("bare", 2, images=0, visual_version="", amount_minor=None, currency=None, availability=None),
        make_product("nul", 1, text={**make_product().text, "title": "a\0b", "brand": ""}),
    ]
    assert store.write_features(products) == set()
    result = store.read_features([*(product.id for product in products), "unknown"])
    assert set(result) == {product.id for product in products}
    for product in products:
        assert same(result[product.id], product)
    assert result["a1"].image_vectors.dtype == np.float32


def test_compaction_merges_the_history_of_every_view_and_changes_nothing_read(store: Any) -> None:
    store.ensure_model_version("m1")
    for version in range(1, 4):
        store.write_features([make_product("a", version)])
        store.write_embeddings("m1", [make_embedding("a", version)])
    for part in store.home.glob("history/*/*.parquet"):
        os.utime(part, (1, 1))  # long ago: young parts stay
    rows, before = store.history("product_text").read().num_rows, parts(store)
    merged = store.compact()
    assert set(merged) == {*FIXED_VIEWS, f"{EMBEDDING_PREFIX}m1"}
    assert (parts(store), before) == (5, 1 + sum(merged.values()))  # one part of nobody's list is alone
    assert store.history("product_text").read().num_rows == rows == 3


def test_older_versions_are_refused_and_named(store: Any) -> None:
    store.write_features([make_product("a", 5), make_product("b", 5)])
    assert store.write_features([make_product("a", 4), make_product("b", 6), make_product("c", 1)]) == {"a"}
    assert {id: p.version for id, p in store.read_features("abc").items()} == {"a": 5, "b": 6, "c": 1}
    assert same(store.read_features("a")["a"], make_product("a", 5))


def test_of_rows_with_one_id_the_newest_is_written_and_of_equal_versions_the_last(store: Any) -> None:
    first, last = make_product("a", 2, currency="EUR"), make_product("a", 2, currency="SEK")
    assert store.write_features([make_product("a", 1), first, last, make_product("a", 1)]) == set()
    assert store.read_features("a")["a"].currency == "SEK"


def test_an_offer_alone_leaves_text_and_images_and_moves_the_product_on(store: Any) -> None:
    store.write_features([make_product("a", 1)])
    store.write_features([make_product("a", 3)], views=["offer"])
    result = store.read_features("a")["a"]
    assert (result.version, result.event_time) == (3, NOON + timedelta(microseconds=3))
    assert result.amount_minor == 300
    assert result.text == make_product("a", 1).text
    assert np.array_equal(result.image_vectors, make_product("a", 1).image_vectors)


def test_an_older_full_update_cannot_pass_a_newer_offer_in_any_view(store: Any) -> None:
    store.write_features([make_product("a", 1)])
    store.write_features([make_product("a", 3)], views=["offer"])
    assert store.write_features([make_product("a", 2)]) == {"a"}
    result = store.read_features("a")["a"]
    assert (result.text["title"], result.amount_minor) == ("title of a at 1", 300)


def test_offers_are_read_and_written_without_the_rest(store: Any) -> None:
    store.write_features([make_product("a", 3), make_product("b", 3)])
    store.delete([deletion("b", 4)])
    offers = store.read_offers(["a", "b", "unknown"])
    whole = store.read_features(["a"])["a"]
    assert set(offers) == {"a", "b"}
    assert (offers["a"].version, offers["a"].event_time, offers["a"].amount_minor) == (3, whole.event_time, 300)
    assert (offers["b"].version, offers["b"].deleted, offers["b"].amount_minor) == (4, True, None)
    newer = OfferRow(id="a", version=5, event_time=NOON + timedelta(seconds=1), amount_minor=7, currency="EUR")
    older = OfferRow(id="a", version=4, event_time=NOON, amount_minor=9, currency="EUR")
    assert store.write_offers([newer]) == set()
    assert store.write_offers([older]) == {"a"}
    assert store.versions(["a", "b", "unknown"]) == {"a": 5, "b": 4}
    now = store.read_features(["a"])["a"]
    assert (now.version, now.event_time, now.amount_minor, now.availability) == (5, newer.event_time, 7, None)
    assert (now.text, now.image_urls) == (whole.text, whole.image_urls)
    with pytest.raises(InvalidFeatureError, match="amount_minor"):
        store.write_offers([OfferRow(id="a", version=6, event_time=NOON, amount_minor="7")])


def test_a_followed_version_refuses_older_rows_and_every_reader_returns_it(store: Any) -> None:
    """No row of text or images is rewritten for a new price."""
    store.write_features([make_product("a", 3)])
    store.write_features([make_product("a", 6)], ["offer"])
    assert store.write_features([make_product("a", 5)], ["text"]) == {"a"}
    assert store.write_features([make_product("a", 6)], ["text"]) == set()
    (page,) = store.scan_features()
    assert page[0].version == 6
    asked = ["product_text:version", "product_images:version", "product_offer:version"]
    answer = store.feast.get_online_features(asked, [{"product_id": "a"}], full_feature_names=True).to_dict()
    assert [answer[f"{view}__version"] for view in ("product_text", "product_images", "product_offer")] == [[6]] * 3


def test_a_view_follows_another_also_while_the_product_has_no_offer_yet(store: Any) -> None:
    """As when a store is filled again, view by view, while updates arrive."""
    store.write_features([make_product("a", 5)], ["text", "images"])
    store.write_features([make_product("a", 10)], ["images"])
    assert store.write_features([make_product("a", 7)], ["text"]) == {"a"}
    (page,) = store.scan_features()
    assert (page[0].version, page[0].event_time) == (10, make_product("a", 10).event_time)


def test_what_an_embedding_is_of_is_read_without_its_vector(store: Any) -> None:
    store.ensure_model_version("m1")
    embedding = make_embedding("a", 3)
    store.write_embeddings("m1", [embedding, make_embedding("b", 3)])
    store.delete([deletion("b", 4)])
    states = store.embedding_states("m1", ["a", "b", "unknown"])
    assert states == {"a": (3, embedding.content_hash, False), "b": (4, "", True)}


def test_an_offer_alone_does_not_bring_a_deleted_product_back_but_a_whole_one_does(store: Any) -> None:
    store.write_features([make_product("a", 1)])
    store.delete([deletion("a", 2)])
    store.write_features([make_product("a", 4)], views=["offer"])
    result = store.read_features("a")["a"]
    assert (result.version, result.deleted) == (4, True)
    assert store.write_features([make_product("a", 3)]) == {"a"}
    assert store.read_features("a")["a"].deleted
    store.write_features([make_product("a", 4)])
    assert same(store.read_features("a")["a"], make_product("a", 4))


def test_only_named_views_get_a_part_of_history(store: Any) -> None:
    store.write_features([make_product("a", 1)])
    before = parts(store)
    store.write_features([make_product("a", 2)], views=["offer"])
    assert parts(store) == before + 1
    assert store.history("product_offer").read()["amount_minor"].to_pylist() == [100, 200]


def test_a_deleted_product_is_a_tombstone_in_every_view_and_model_version(store: Any) -> None:
    for model_version in ("m1", "m2"):
        store.ensure_model_version(model_version)
        store.write_embeddings(model_version, [make_embedding("a", 1, model_version)])
    store.write_features([make_product("a", 1)])
    assert store.delete([deletion("a", 2)]) == set()
    result = store.read_features("a")["a"]
    assert same(result, ProductFeatures(id="a", version=2, event_time=NOON, deleted=True))
    for model_version in ("m1", "m2"):
        assert store.read_embeddings(model_version, "a")["a"].deleted
        assert store.write_embeddings(model_version, [make_embedding("a", 1, model_version)]) == {"a"}
        assert list(store.scan_embeddings(model_version)) == []
    assert store.write_features([make_product("a", 1)]) == {"a"}
    assert store.read_features("a")["a"].deleted


def test_an_embedding_alone_can_be_a_tombstone_beside_live_ones_and_an_older_vector_stays_out(store: Any) -> None:
    """As of a product that the model refuses, though the product is there."""
    store.ensure_model_version("m1")
    store.write_embeddings("m1", [make_embedding("a", 1), make_embedding("b", 1)])
    gone = make_embedding("a", 2, content_hash="", vector=np.zeros(256, np.float32), deleted=True)
    assert store.write_embeddings("m1", [gone, make_embedding("b", 2)]) == set()
    assert store.read_embeddings("m1", ["a"])["a"].deleted
    assert [row.id for page in store.scan_embeddings("m1") for row in page] == ["b"]
    assert store.write_embeddings("m1", [make_embedding("a", 1)]) == {"a"}


def test_an_image_that_could_not_be_read_keeps_its_url_and_its_place(store: Any) -> None:
    product = make_product("a", 1, images=3)
    product.image_hashes[1] = ""
    product.image_vectors = product.image_vectors[[0, 2]]
    store.write_features([product])
    assert same(store.read_features("a")["a"], product)
    rows = store.history("product_images").read()
    assert rows["hashes"].to_pylist() == [product.image_hashes]
    assert rows["urls"].to_pylist() == [product.image_urls]


def test_a_deletion_older_than_the_product_is_refused(store: Any) -> None:
    store.write_features([make_product("a", 5)])
    assert store.delete([deletion("a", 4)]) == {"a"}
    assert same(store.read_features("a")["a"], make_product("a", 5))


def test_an_unknown_product_can_be_deleted_before_it_arrives(store: Any) -> None:
    store.delete([deletion("a", 5)])
    assert store.write_features([make_product("a", 4)]) == {"a"}
    assert store.write_features([make_product("a", 6)]) == set()
    assert same(store.read_features("a")["a"], make_product("a", 6))


def test_deletions_are_in_the_history_with_nulls(store: Any) -> None:
    store.write_features([make_product("a", 1), make_product("b", 1)])
    store.write_features([ProductFeatures(id="a", version=2, event_time=NOON, deleted=True), make_product("b", 2)])
    for name in ("product_text", "product_images", "product_offer"):
        rows = store.history(name).read().sort_by([("product_id", "ascending"), ("version", "ascending")]).to_pylist()
        assert [(r["product_id"], r["version"], r["deleted"]) for r in rows] == [
            ("a", 1, False), ("a", 2, True), ("b", 1, False), ("b", 2, False),
        ]  # fmt: skip
        payload = [k for k in rows[1] if k not in ("product_id", "version", "deleted") and "timestamp" not in k]
        assert all(rows[1][k] is None for k in payload)
        assert all(rows[3][k] is not None for k in payload)


def test_history_holds_the_vectors_that_were_written(store: Any) -> None:
    store.ensure_model_version("m1")
    gone = make_embedding("gone", 1, deleted=True)
    store.write_features([make_product("a", 1, images=3), make_product("b", 1, images=0), make_product("c", 1)])
    store.write_embeddings("m1", [make_embedding("a"), gone, make_embedding("c")])
    images = {r["product_id"]: r["vectors"] for r in store.history("product_images").read().to_pylist()}
    vectors = {r["product_id"]: r["vector"] for r in store.history("product_embedding_m1").read().to_pylist()}
    assert images == {
        id: make_product(id, 1, images=n).image_vectors.tolist() for id, n in (("a", 3), ("b", 0), ("c", 2))
    }
    assert vectors == {"a": make_embedding("a").vector.tolist(), "gone": None, "c": make_embedding("c").vector.tolist()}


def test_one_bad_row_refuses_the_whole_write(store: Any) -> None:
    before = parts(store)
    with pytest.raises(InvalidFeatureError, match="'bad'"):
        store.write_features([make_product("good"), make_product("bad", amount_minor="12")])
    with pytest.raises(InvalidFeatureError, match="time zone"):
        store.delete([deletion("good"), Deletion(id="bad", version=1, event_time=NOON.replace(tzinfo=None))])
    with pytest.raises(InvalidFeatureError, match=r"Unknown views \['price'\]"):
        store.write_features([make_product("good")], views=["price"])
    assert store.read_features(["good", "bad"]) == {}
    assert parts(store) == before


def test_nothing_is_online_that_history_does_not_hold(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise HistoryError("disk full")

    monkeypatch.setattr("feature_repo.history.writer.History.append", fail)
    with pytest.raises(HistoryError):
        store.write_features([make_product("a")])
    assert store.read_features("a") == {}


def test_embeddings_of_two_model_versions_stay_apart(store: Any) -> None:
    store.ensure_model_version("m1")
    store.ensure_model_version("m-2.0")
    store.write_embeddings("m1", [make_embedding("a", 1)])
    store.write_embeddings("m-2.0", [make_embedding("a", 2, "m-2.0")])
    assert store.model_versions() == ["m-2.0", "m1"]
    assert same(store.read_embeddings("m1", ["a", "b"])["a"], make_embedding("a", 1))
    assert same(store.read_embeddings("m-2.0", ["a"])["a"], make_embedding("a", 2, "m-2.0"))


def test_an_unknown_model_version_is_named_with_the_known_ones(store: Any) -> None:
    store.ensure_model_version("m1")
    with pytest.raises(UnknownModelVersionError, match=r"'m9' has no embedding view \(existing model versions: m1\)"):
        store.read_embeddings("m9", ["a"])
    with pytest.raises(UnknownModelVersionError, match="ensure_model_version"):
        store.write_embeddings("m9", [make_embedding(model_version="m9")])


def test_a_model_version_made_through_one_store_is_known_to_another(open_store: Callable[[], Any]) -> None:
    one, other = open_store(), open_store()
    one.ensure_model_version("m1")
    other.write_embeddings("m1", [make_embedding("a")])
    assert other.model_versions() == ["m1"]
    assert same(one.read_embeddings("m1", "a")["a"], make_embedding("a"))
    one.ensure_model_version("m1")


def test_scans_give_every_live_product_once(store: Any) -> None:
    products = [make_product(f"p{i}", 1) for i in range(23)]
    store.write_features(products)
    store.delete([deletion("p7")])
    expected = {product.id: product for product in products if product.id != "p7"}
    assert sorted(store.product_ids()) == sorted(expected)
    pages = list(store.scan_features(batch=5))
    assert max(map(len, pages)) == 5
    result = [product for page in pages for product in page]
    assert len(result) == 22
    assert all(same(product, expected[product.id]) for product in result)


def test_scanning_embeddings_gives_every_live_one_once(store: Any) -> None:
    store.ensure_model_version("m1")
    store.write_embeddings("m1", [make_embedding(f"p{i}") for i in range(7)])
    store.delete([deletion("p3")])
    result = [row for page in store.scan_embeddings("m1", batch=2) for row in page]
    assert sorted(row.id for row in result) == ["p0", "p1", "p2", "p4", "p5", "p6"]
    assert all(same(row, make_embedding(row.id)) for row in result)


def test_a_closed_store_says_so(store: Any) -> None:
    store.close()
    with pytest.raises(StoreStateError, match="closed"):
        store.read_features(["a"])
    store.close()


def test_a_store_that_is_being_closed_opens_no_connection_again(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    disconnect, refused = store.online.disconnect, []

    def use_and_disconnect() -> None:
        with pytest.raises(StoreStateError, match="closed") as error:
            store.versions(["a"])
        refused.append(error.value)
        disconnect()

    monkeypatch.setattr(store.online, "disconnect", use_and_disconnect)
    store.close()
    assert len(refused) == 1


_UNUSED_IDS = itertools.count()
Step = tuple[str, int, tuple[str, ...]]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["write", "delete"]),
        st.integers(0, 8),
        st.sampled_from([VIEWS, VIEWS, ("offer",), ("text", "offer")]),
    ),
    max_size=8,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_the_newest_step_decides_in_any_order_of_arrival(store: Any, steps: list[Step]) -> None:
    """Versions are drawn from few, so that equal, older and newer ones meet; every run has its own product."""
    id = f"p{next(_UNUSED_IDS)}"
    store.write_features([make_product(id, 4)])
    newest, dead = 4, False
    for kind, version, views in steps:
        if kind == "write":
            stale = store.write_features([make_product(id, version)], views=views)
        else:
            stale = store.delete([deletion(id, version)])
        assert stale == ({id} if version < newest else set())
        if version >= newest:
            # A product that is gone comes back whole or not at all.
            newest, dead = version, kind == "delete" or (dead and views != VIEWS)
        result = store.read_features([id])[id]
        assert (result.version, result.deleted) == (newest, dead)
        if kind == "write" and not stale and not dead:
            assert result.amount_minor == make_product(id, version).amount_minor

"""An index kept by its owner: saved, loaded, mended, judged; the same from the topics and from the feature store."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from feature_repo.rows import TEXT_FIELDS, ProductEmbedding, ProductFeatures
from inference.arrays import Float32Array
from inference.recommend import Recommender
from inference.retrieval import Filter, MonitorSettings, RetrievalIndex
from streaming.contracts import ProductVector
from streaming.kafka.codec import JSON
from streaming.vectors import followed_index
from streaming.vectors.followed_index import FollowedIndex, Upkeep, index_from_features, index_from_topics, load_index
from streaming.vectors.publisher import offer_publisher
from tests.streaming.builders import NOW, vector_of
from tests.streaming.fakes import CompactedProducer, FakeStore
from tests.streaming.vectors.test_embedding_topic import O0, P0, FakeBroker, on_topic


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followed_index, "_TICK_S", 0.01)


def message(id: str, version: int) -> ProductVector:
    return ProductVector(
        id=id,
        version=version,
        model_version="1",
        content_hash="h",
        vector=ProductVector.pack(vector_of(id, version)),
        source_time=1000,
    )


def followed(broker: FakeBroker, folder: Path | None = None, **rest: Any) -> FollowedIndex:
    return FollowedIndex(broker, "1", folder=folder, **rest)  # type: ignore[arg-type]


def shop(products: int = 5) -> FakeBroker:
    return FakeBroker([on_topic(f"p{n}", 1, message(f"p{n}", 1)) for n in range(products)])


def test_a_restart_reads_only_what_came_since(tmp_path: Path) -> None:
    broker = shop()
    with followed(broker, tmp_path / "1") as first:
        assert first.catch_up(10)
        assert first.healthy
    broker.read.clear()
    broker.logs[P0].append(on_topic("p0", 2, None))
    second = followed(broker, tmp_path / "1")
    assert len(second.index) == 5, "answers from the file"
    with second:
        assert second.catch_up(10)
        assert broker.read == [(P0.topic, 5)]
        assert "p0" not in second.index
    assert not second.healthy


def test_after_a_kill_the_last_save_is_gone_on_from(tmp_path: Path) -> None:
    broker = shop()
    with followed(broker, tmp_path, upkeep=Upkeep(save_every_s=0.0)) as running:
        assert running.catch_up(10)
        until(lambda: (tmp_path / "manifest.json").exists(), "the first save, once everything is read")
        assert len(load_index(tmp_path, "1")) == 5
        broker.logs[P0].append(on_topic("late", 1, message("late", 1)))
        until(lambda: "late" in load_index(tmp_path, "1"), "a save of what came later")


def test_what_is_in_the_folder_and_cannot_be_used_is_told_and_written_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    RetrievalIndex("0").save(tmp_path)
    with followed(shop(), tmp_path) as running:
        assert running.catch_up(10)
    assert "is of model version '0'" in caplog.text
    assert len(RetrievalIndex.load(tmp_path, "1")) == 5


def test_a_follower_that_never_caught_up_saves_nothing(tmp_path: Path) -> None:
    with followed(FakeBroker(failures={0: [ZeroDivisionError()]}), tmp_path / "x") as running:
        assert not running.catch_up(10)
        assert not running.healthy
    assert not (tmp_path / "x").exists()


def test_a_save_that_fails_is_logged_and_the_index_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    broker = shop()
    (tmp_path / "1").write_text("in the way")
    running = followed(broker, tmp_path / "1").start()
    try:
        assert running.catch_up(10)
        until(lambda: "is not kept up" in caplog.text, "a line in the log")
        broker.logs[P0].append(on_topic("late", 1, message("late", 1)))
        assert running.catch_up(10)
        assert "late" in running.index
    finally:
        (tmp_path / "1").unlink()
        running.close()


def test_a_worn_graph_is_built_anew_and_removed_products_are_forgotten() -> None:
    broker = shop(30)
    with followed(broker, upkeep=Upkeep(compact_at_wear=0.5, removed_kept=3)) as running:
        running.index.settings = type(running.index.settings)(exact_up_to=0)
        assert running.catch_up(10)
        broker.logs[P0] += [on_topic(f"p{n}", 2, None) for n in range(12)]
        assert running.catch_up(10)
        until(lambda: running.index.wear == 0, "the graph to be built anew")
        until(lambda: len(running.index._rows.free) == 12 - 4, "all but a quarter of what is there to be forgotten")
        assert len(running.index) == 18
        assert running.index.search(vector_of("p20", 1)[None], 1)[0].ids == ["p20"]


def test_live_queries_are_judged_in_the_background_and_the_figure_is_there_to_read() -> None:
    broker = shop(40)
    with followed(broker, monitor=MonitorSettings(share=1.0, busy=1.0, waiting=100)) as running:
        assert running.catch_up(10)
        assert running.recall().recall is None
        recommender = Recommender(running.index, lambda texts: none(), {}, observe=running.monitor.observe)
        recommender.for_user([["p1", "p2"], ["p3"]], k=5)
        until(lambda: running.recall().checked > 0, "a query to be judged")
        assert running.recall().recall == 1.0
    assert not [t for t in threading.enumerate() if t.name in ("recall-monitor", "index-upkeep", "index-follower")]


def none() -> Float32Array:
    return np.zeros((0, 256), np.float32)


# -------------------------------------------------------------------------------------------------------- rebuild


class ScannedStore(FakeStore):
    def scan_embeddings(self, model_version: str, batch: int = 4096) -> Any:
        live = [row for row in self.embeddings[model_version].values() if not row.deleted]
        for start in range(0, len(live), 7):
            yield live[start : start + 7]


def test_from_the_topics_and_from_the_feature_store_comes_the_same_index() -> None:
    store, broker, producer = ScannedStore(), FakeBroker(), CompactedProducer()
    products = [
        ProductFeatures(
            id=f"p{n}",
            version=n + 5,
            event_time=NOW,
            deleted=n % 10 == 9,
            text=dict.fromkeys(TEXT_FIELDS, "") | {"product_type": f"Home > {n % 3}"},
            amount_minor=None if n % 4 == 3 else 100 * n,
            currency=None if n % 4 == 3 else "EUR",
            availability=("in_stock", "out_of_stock", None)[n % 3],
        )
        for n in range(60)
    ]
    for product in products:
        vector = vector_of(product.id) * np.float32(1.0003)  # not quite of unit length, as float16 may leave it
        row = ProductEmbedding(
            id=product.id,
            version=product.version - product.version % 2,
            event_time=NOW,
            model_version="1",
            content_hash="h",
            vector=vector,
            deleted=product.deleted,
        )
        store.embeddings["1"][row.id] = row
        for view in store.views.values():
            view[product.id] = product
        packed = ProductVector(
            id=row.id,
            version=row.version,
            model_version="1",
            content_hash="h",
            vector=ProductVector.pack(vector),
            source_time=1,
        )
        broker.logs[P0].append(on_topic(row.id, row.version, None if row.deleted else packed))
        assert row.deleted or JSON.encode(packed)
    offer_publisher(producer, JSON)(
        [(p.id, p.version, None if p.deleted else attributes_of(p)) for p in products], lambda id: 1
    )
    broker.logs[O0] = [(key, value, list(headers.items())) for _, key, value, headers in producer.sent]

    a = index_from_topics(broker, "1", timeout_s=20)  # type: ignore[arg-type]
    b = index_from_features(store, "1", position=a.position)  # type: ignore[arg-type]
    ids = [p.id for p in products]
    assert (len(a), len(b)) == (54, 54)
    assert a.position == b.position
    left, right = a.vectors(ids), b.vectors(ids)
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name], err_msg=f"the same bits of {name}")
    queries = np.stack([vector_of("query", n) for n in range(20)])
    for where in (
        None,
        Filter(in_stock=True),
        Filter(categories=("home > 1",)),
        Filter(min_price=500, max_price=3000, currency="EUR"),
    ):
        found, expected = a.search(queries, 60, where=where), b.search(queries, 60, where=where)
        assert [sorted(f.ids) for f in found] == [sorted(e.ids) for e in expected]
        assert len(found[0].ids) > 5
    for name in left:  # versions: what is older than one's is older than the other's
        version = store.embeddings["1"][name].version
        assert not a.upsert(name, version - 1, vector_of("x"))
        assert not b.upsert(name, version - 1, vector_of("x"))


def test_topics_that_are_not_read_in_time_are_an_error() -> None:
    broker = FakeBroker(failures={0: [ZeroDivisionError()]})
    with pytest.raises(Exception, match="not read to their ends within 1 s"):
        index_from_topics(broker, "1", timeout_s=1)  # type: ignore[arg-type]

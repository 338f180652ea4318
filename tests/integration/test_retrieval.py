"""Retrieval on a real broker: published products are found, and a restarted index resumes or is rebuilt."""

from __future__ import annotations

import re
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from feature_repo.rows import TEXT_FIELDS, Deletion, ProductEmbedding, ProductFeatures
from feature_repo.store import ProductFeatureStore
from inference.arrays import Float32Array
from inference.queries import SearchEncoder, SearchQueries
from inference.recommend import Recommender
from inference.retrieval import Filter, RetrievalIndex
from inference.tokenizer import Tokenizer
from sagelift.stack.kafka import KafkaBroker
from streaming.contracts import ProductVector
from streaming.kafka.codec import JSON
from streaming.kafka.connection import Connection
from streaming.kafka.topic_admin import ensure_topics
from streaming.kafka.topics import PRODUCT_OFFERS
from streaming.vectors.followed_index import FollowedIndex
from streaming.vectors.follower import end_position
from streaming.vectors.offers import offer_of
from streaming.vectors.publisher import OutgoingOffer, OutgoingVector, embedding_publisher, offer_publisher
from streaming.vectors.rebuild import index_from_features, index_from_topics
from tests.streaming.builders import NOW, vector_of
from tests.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


class Catalogue:
    """Writes as the catalogue consumer does: first the store, then both topics. It has its own model version."""

    def __init__(self, connection: Connection, store: ProductFeatureStore | None = None) -> None:
        self.connection, self.store = connection, store
        self.model = f"m{uuid.uuid4().hex[:8]}"
        self._producer = connection.producer()
        self._embeddings, self._offers = (
            embedding_publisher(self._producer, JSON),
            offer_publisher(self._producer, JSON),
        )
        if store is not None:
            store.ensure_model_version(self.model)

    def close(self) -> None:
        self._producer.close(2)

    def name(self, id: str) -> str:
        return f"{self.model}-{id}"

    def state(self, id: str, version: int, cents: int, availability: str = "in_stock") -> None:
        """Write a whole product; its vector depends only on its id."""
        self.offer(id, version, cents, availability, self.store)
        row = ProductEmbedding(
            id=self.name(id),
            version=version,
            event_time=NOW,
            model_version=self.model,
            content_hash="h",
            vector=vector_of(id),
        )
        if self.store is not None:
            self.store.write_embeddings(self.model, [row])
        message = ProductVector(
            id=row.id,
            version=version,
            model_version=self.model,
            content_hash="h",
            vector=ProductVector.pack(row.vector),
            source_time=int(time.time() * 1000),
        )
        self._embeddings([OutgoingVector(self.model, row.id, version, message)])

    def offer(
        self, id: str, version: int, cents: int, availability: str, store: ProductFeatureStore | None = None
    ) -> None:
        product = ProductFeatures(
            id=self.name(id),
            version=version,
            event_time=NOW,
            text=dict.fromkeys(TEXT_FIELDS, "") | {"product_type": "Home > Lamps"},
            amount_minor=cents,
            currency="EUR",
            availability=availability,
        )
        if store is not None:
            store.write_features([product])
        self._offers([offer_of(product, source_time=int(time.time() * 1000))])

    def delete(self, id: str, version: int) -> None:
        gone = Deletion(id=self.name(id), version=version, event_time=NOW)
        if self.store is not None:
            self.store.delete([gone])
        self._offers([OutgoingOffer(gone.id, version, None)])
        self._embeddings([OutgoingVector(self.model, gone.id, version, None)])


@pytest.fixture
def catalogue(kafka: KafkaBroker) -> Iterator[Catalogue]:
    connection = Connection(kafka.bootstrap)
    ensure_topics(connection)
    catalogue = Catalogue(connection)
    yield catalogue
    catalogue.close()


def search(texts: Sequence[str]) -> Float32Array:
    return np.stack([vector_of(text) for text in texts])


def test_vectors_prices_and_stock_reach_the_next_query(catalogue: Catalogue) -> None:
    ages: list[float] = []
    with FollowedIndex(catalogue.connection, catalogue.model, on_offer=lambda id, ms: ages.append(ms)) as followed:
        assert followed.catch_up(60)
        ages.clear()
        shop = Recommender(followed.index, search, {}, observe=followed.monitor.observe)

        def answer(where: Filter | None) -> list[str]:
            return [id.removeprefix(catalogue.model + "-") for id in shop.for_search(["a"], 5, where=where)[0]]

        catalogue.state("a", 1, 500)
        catalogue.state("b", 1, 900)
        wait_until(lambda: answer(None) == ["a", "b"], "both products are not found")
        available = Filter(in_stock=True)
        wait_until(lambda: sorted(answer(available)) == ["a", "b"], "both products are not available")
        catalogue.offer("a", 2, 1500, "out_of_stock")
        wait_until(lambda: answer(available) == ["b"], "a product that is out of stock is found")
        assert answer(Filter(max_price=1000, currency="EUR")) == ["b"]
        assert sorted(answer(Filter(max_price=1500, currency="EUR", categories=("home",)))) == ["a", "b"]
        catalogue.delete("b", 2)
        wait_until(lambda: answer(None) == ["a"], "the deleted product is still found")
        assert len(ages) == 3, "the age of each new offer is reported"
        assert min(ages) >= 0


def test_a_restart_loads_the_file_and_reads_only_the_rest(catalogue: Catalogue, tmp_path: Path) -> None:
    for number in range(20):
        catalogue.state(f"p{number}", 1, 100 * number)
    with FollowedIndex(catalogue.connection, catalogue.model, folder=tmp_path) as first:
        assert first.catch_up(60)
        assert len(first.index) == 20
    catalogue.delete("p3", 2)
    catalogue.offer("p4", 2, 7, "out_of_stock")
    catalogue.state("new", 1, 5)

    applied: list[str] = []
    offers: list[str] = []
    again = FollowedIndex(
        catalogue.connection,
        catalogue.model,
        folder=tmp_path,
        on_vector=lambda id, ms: applied.append(id),
        on_offer=lambda id, ms: offers.append(id),
    )
    assert len(again.index) == 20
    with again:
        assert again.catch_up(60)
        assert applied == [catalogue.name("new")]
        assert sorted(offers) == sorted([catalogue.name("p4"), catalogue.name("new")])
        assert len(again.index) == 20
        assert catalogue.name("p3") not in again.index
        cheap = again.index.search(vector_of("new")[None], 30, where=Filter(max_price=10, currency="EUR"))[0].ids
        assert set(cheap) == {catalogue.name(id) for id in ("p0", "p4", "new")}


def test_a_saved_index_of_a_topic_that_was_created_again_is_rebuilt(
    catalogue: Catalogue, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    catalogue.state("a", 9, 500)
    with FollowedIndex(catalogue.connection, catalogue.model, folder=tmp_path) as first:
        assert first.catch_up(60)
    admin = catalogue.connection.admin()
    admin.delete_topics([PRODUCT_OFFERS])
    wait_until(lambda: PRODUCT_OFFERS not in admin.list_topics(), "the topic still exists")
    admin.close()
    ensure_topics(catalogue.connection)
    catalogue.offer("a", 2, 100, "in_stock")  # versions start again on the new topic
    with FollowedIndex(catalogue.connection, catalogue.model, folder=tmp_path) as second:
        assert second.catch_up(60)
        results = second.index.search(vector_of("a")[None], 5, where=Filter(max_price=100, currency="EUR"))
        assert results[0].ids == [catalogue.name("a")]
    assert "is rebuilt: it was made from another topic product.offers" in caplog.text


def test_the_topics_and_feast_rebuild_the_same_index(kafka: KafkaBroker, tmp_path: Path) -> None:
    connection = Connection(kafka.bootstrap)
    ensure_topics(connection)
    with ProductFeatureStore.open(tmp_path) as store:
        catalogue = Catalogue(connection, store)
        for number in range(30):
            catalogue.state(f"p{number}", number + 1, 100 * number, ("in_stock", "out_of_stock")[number % 2])
        for number in range(0, 30, 7):
            catalogue.delete(f"p{number}", 90)
        catalogue.state("p2", 91, 1)
        a = index_from_topics(connection, catalogue.model, timeout_s=60)
        b = index_from_features(store, catalogue.model, position=end_position(connection))
        catalogue.close()

    ids = [catalogue.name(f"p{number}") for number in range(30)]
    left, right = a.vectors(ids), b.vectors(ids)
    assert left.keys() == right.keys()
    assert len(left) == 25
    for name in left:
        np.testing.assert_array_equal(left[name], right[name])
    for where in (None, Filter(in_stock=True), Filter(max_price=1500, currency="EUR", categories=("home > lamps",))):
        assert a.search(search(["x"]), 30, where=where) == b.search(search(["x"]), 30, where=where)
    assert {k: v for k, v in a.position.items() if k != "as_of_ms"} == {
        k: v for k, v in b.position.items() if k != "as_of_ms"
    }
    assert isinstance(b, RetrievalIndex)


def test_the_examples_of_the_documentation_run(
    catalogue: Catalogue,
    kafka: KafkaBroker,
    model_repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for id in ("sku-1", "sku-2"):
        catalogue.state(id, 1, 900)
    models = tmp_path / "models"
    release = models / "itemsage" / catalogue.model
    shutil.copytree(model_repository / "itemsage" / "1", release)
    (models / "itemsage" / "LIVE").write_text(catalogue.model)
    tokenizer = Tokenizer.load(release / "tokenizer.json")
    SearchQueries(SearchEncoder(tokenizer.size, table_rows=499), tokenizer).save(release)
    monkeypatch.setenv("SAGELIFT_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("SAGELIFT_KAFKA__BOOTSTRAP_SERVERS", kafka.bootstrap)
    monkeypatch.setenv("SAGELIFT_TRITON__MODEL_REPOSITORY", str(models))
    page = Path(__file__).parents[2] / "docs" / "shops" / "retrieval.md"
    names: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.S)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, page.name, "exec"), names)
    expected = {catalogue.name("sku-1"), catalogue.name("sku-2")}
    assert set(names["shop"].for_search(["oak table"], where=names["cheap"])[0]) == expected
    assert names["live"].current.model_version == catalogue.model
    assert names["live"].current is not names["shop"]

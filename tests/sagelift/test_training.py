"""Training sets as known at a time, from a real feature store and a real experiment database."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from experiments.event_rows import EventRow
from feature_repo.history.compaction import compact
from feature_repo.rows import Deletion
from inference.errors import InputError
from inference.inputs import ProductInput
from inference.training.config import TrainConfig
from inference.training.run import work_folder
from sagelift.runs import data_as_of
from sagelift.services import Services
from sagelift.settings import load_settings
from sagelift.training import prepare_training, read_engagements, read_products
from tests.feature_repo.builders import NOON, make_product

CONFIG = TrainConfig()


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    with Services(load_settings(state_dir=tmp_path)) as services:
        yield services


def now() -> datetime:
    return datetime.now(UTC)


def click(number: int, query: str, product: str) -> EventRow:
    return EventRow(
        event_id=str(number),
        kind="click",
        unit_id="u",
        event_time=1_770_000_000_000_000 + number,
        surface="search",
        query=query,
        product_id=product,
    )


def as_bytes(products: list[ProductInput]) -> list[tuple[str, dict[str, str], bytes]]:
    return [(p.id, dict(p.text), p.images.tobytes()) for p in products]


def test_as_of_now_the_history_equals_the_online_store(services: Services) -> None:
    """After new products, changes of one view, stale messages, deletions, and products without images."""
    store = services.features
    ids = [f"p{i:02d}" for i in range(30)]
    store.write_features([make_product(id, 2, images=i % 4) for i, id in enumerate(ids)])
    store.write_features([make_product(id, 3) for id in ids[:5]], views=["offer"])
    store.write_features([make_product(id, 4, images=2) for id in ids[3:8]], views=["text"])
    store.write_features([make_product(id, 1) for id in ids[20:25]])
    store.delete([Deletion(id=id, version=5, event_time=NOON) for id in ids[9:12]])
    store.write_features([make_product(ids[10], 6)])
    online = [ProductInput(p.id, p.text, p.image_vectors) for part in store.scan_features() for p in part]
    products = read_products(services, now())
    assert len(products) == 28
    assert as_bytes(products) == as_bytes(sorted(online, key=lambda p: p.id))
    assert {p.images.shape[1:] for p in products} == {(256,)}


def test_a_product_is_trained_on_as_it_was_and_not_at_all_when_it_was_deleted(services: Services) -> None:
    store = services.features
    store.write_features([make_product(id, 1) for id in ("a", "b", "c")])
    store.delete([Deletion(id="b", version=2, event_time=NOON)])
    then = now()
    store.write_features([make_product("a", 2), make_product("d", 1, event_time=NOON - timedelta(days=9))])
    store.delete([Deletion(id="c", version=2, event_time=NOON)])
    result = {p.id: p for p in read_products(services, then)}
    assert sorted(result) == ["a", "c"]  # of `d` an old event arrived later
    assert result["a"].text == make_product("a", 1).text
    assert np.array_equal(result["a"].images, make_product("a", 1).image_vectors)
    assert [p.id for p in read_products(services, now())] == ["a", "d"]


def test_engagements_that_came_later_are_not_known(services: Services) -> None:
    services.experiments.write_events([click(1, "tent", "a")])
    then = now()
    services.experiments.write_events([click(0, "tent", "a"), click(2, "bag", "a")])
    assert [(e.query, e.count) for e in read_engagements(services, then)] == [("tent", 1)]
    assert [(e.query, e.count) for e in read_engagements(services, now())] == [("bag", 1), ("tent", 2)]


def test_the_training_set_of_a_time_does_not_depend_on_later_data(services: Services) -> None:
    store = services.features
    store.write_features([make_product(f"p{i}", 1) for i in range(9)])
    services.experiments.write_events([click(i, f"title {i}", f"p{i}") for i in range(9)])
    then = now()

    def files(as_of: datetime | None) -> dict[str, bytes]:
        work = work_folder(prepare_training(services, CONFIG, as_of))
        return {str(path.relative_to(work)): path.read_bytes() for path in work.rglob("*") if path.is_file()}

    first = files(then)
    store.write_features([make_product("p1", 2), make_product("new", 1)])
    store.delete([Deletion(id="p2", version=2, event_time=NOON)])
    services.experiments.write_events([click(100, "title 3", "p3")])
    compact(store.history("product_text"), grace_s=0)
    assert files(then) == first
    later = files(None)
    assert later.keys() == first.keys()
    assert later["data/products.json"] != first["data/products.json"]
    assert later["data/pairs.parquet"] != first["data/pairs.parquet"]


def test_a_run_keeps_the_time_of_its_data(services: Services) -> None:
    services.features.write_features([make_product(f"p{i}", 1) for i in range(3)])
    services.experiments.write_events([click(i, f"title {i}", f"p{i}") for i in range(3)])
    before = now()
    work = work_folder(prepare_training(services, CONFIG))
    kept = data_as_of(work)
    assert kept is not None
    assert before <= datetime.fromisoformat(kept) <= now()
    assert json.loads((work / "data" / "about.json").read_text()) == {"as_of": kept, "products": 3}
    (work / "data" / "about.json").unlink()  # a run of an older program
    assert data_as_of(work) is None


@pytest.mark.parametrize(
    ("as_of", "message"),
    [
        (datetime(2100, 1, 1, tzinfo=UTC), "2100-01-01T00:00:00.* is in the future"),
        (datetime(2026, 3, 1), "2026-03-01T00:00:00 has no time zone"),
        (datetime(2001, 3, 1, tzinfo=UTC), "no product was known at 2001-03-01T00:00:00.*; choose a later time"),
    ],
)
def test_a_time_without_a_training_set_is_refused(services: Services, as_of: datetime, message: str) -> None:
    services.features.write_features([make_product("a", 1)])
    with pytest.raises(InputError, match=message):
        prepare_training(services, CONFIG, as_of)
    assert not (services.settings.state / "runs").exists()

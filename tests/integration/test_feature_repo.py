"""The feature store through Feast's own readers, writers, jobs and command line, and from many processes."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

import feature_repo
from feature_repo.definitions import FIXED_VIEWS, OFFER_VIEW
from feature_repo.errors import InvalidFeatureError
from feature_repo.jobs.materialize import Progress, materialize
from feature_repo.rows import Deletion, OfferRow
from feature_repo.store import ProductFeatureStore
from feature_repo.views import PRODUCT_FORMATS, online_row
from sagelift.commands.cli import app
from tests.feature_repo.builders import NOON, make_embedding, make_product, same

_OFFER = PRODUCT_FORMATS[OFFER_VIEW]
FEAST = Path(sys.executable).with_name("feast")

# Feast reads Parquet through ibis, which calls what DuckDB 2.0 deprecates.
_IBIS = pytest.mark.filterwarnings("ignore:fetch_:DeprecationWarning")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ProductFeatureStore]:
    with ProductFeatureStore.open(tmp_path) as store:
        yield store


def online(store: ProductFeatureStore, features: Any, ids: list[str]) -> dict[str, list[Any]]:
    rows = [{"product_id": id} for id in ids]
    return dict(store.feast.get_online_features(features=features, entity_rows=rows).to_dict())


def test_get_online_features_reads_what_was_written_under_the_right_ids(store: ProductFeatureStore) -> None:
    products = [make_product(f"p{i}", i + 1) for i in range(30)]
    store.write_features(products)
    random.Random(1).shuffle(products)
    service = store.feast.get_feature_service("itemsage_inputs_v1")
    result = online(store, service, [product.id for product in products])
    for i, product in enumerate(products):
        assert result["product_id"][i] == product.id
        assert result["version"][i] == product.version
        assert {name: result[name][i] for name in product.text} == product.text
        assert result["urls"][i] == product.image_urls
        assert np.array_equal(np.array(result["vectors"][i], np.float32), product.image_vectors)


def test_get_online_features_sees_neither_deleted_nor_unknown_products(store: ProductFeatureStore) -> None:
    store.write_features([make_product("a"), make_product("b")])
    store.delete([Deletion(id="a", version=2, event_time=NOON)])
    result = online(store, ["product_offer:amount_minor", "product_text:title"], ["a", "b", "c"])
    assert result["amount_minor"] == [None, 100, None]
    assert result["title"] == [None, "title of b at 1", None]


def test_vector_search_pairs_every_product_with_its_own_features_and_distance(store: ProductFeatureStore) -> None:
    store.ensure_model_version("m1")
    embeddings = {id: make_embedding(id) for id in (f"p{i}" for i in random.Random(2).sample(range(1000), 300))}
    store.write_embeddings("m1", list(embeddings.values()))
    wrong = 0
    for query in list(embeddings.values())[:5]:
        result = store.feast.retrieve_online_documents_v2(
            features=["product_embedding_m1:content_hash", "product_embedding_m1:vector"],
            query=query.vector.tolist(),
            top_k=100,
        ).to_dict()
        assert len(set(result["product_id"])) == 100
        for id, content_hash, vector, distance in zip(
            result["product_id"], result["content_hash"], result["vector"], result["distance"], strict=True
        ):
            own = embeddings[id]
            right = np.array_equal(np.array(vector, np.float32), own.vector) and content_hash == own.content_hash
            wrong += not (right and abs(distance - (1 - own.vector @ query.vector)) < 1e-5)
    assert wrong == 0


def test_feasts_own_push_is_guarded_too(store: ProductFeatureStore) -> None:
    store.write_features([make_product("a", 5)])
    row = {"product_id": ["a"], "event_timestamp": [pd.Timestamp(NOON + timedelta(days=9))], "deleted": [False]}
    row |= {"amount_minor": [1], "currency": ["SEK"], "availability": ["out_of_stock"]}
    for version, amount in ((4, 500), (6, 1)):
        frame = pd.DataFrame(row | {"version": [version], "created_timestamp": row["event_timestamp"]})
        store.feast.write_to_online_store("product_offer", df=frame)
        assert online(store, ["product_offer:amount_minor"], ["a"])["amount_minor"] == [amount]


@pytest.mark.parametrize(
    ("view", "changed", "message"),
    [
        ("product_offer", {"version": [None]}, "product_offer has no version"),
        ("product_offer", {"version": [-1]}, "product_offer has no version"),
        ("product_embedding_m1", {"vector": [[float("nan")] * 256]}, "a vector that cannot be searched"),
        ("product_embedding_m1", {"vector": [[0.0] * 256]}, "not all 0"),
    ],
)
def test_rows_that_feasts_push_accepts_are_checked_and_a_refused_one_changes_nothing(
    store: ProductFeatureStore, view: str, changed: dict[str, Any], message: str
) -> None:
    store.ensure_model_version("m1")
    store.write_features([make_product("a", 1)])
    store.write_embeddings("m1", [make_embedding("a", 1)])
    common = {"product_id": ["a"], "event_timestamp": [NOON], "created_timestamp": [NOON], "deleted": [False]}
    rows = {
        "product_offer": {"amount_minor": [1], "currency": ["SEK"], "availability": ["out_of_stock"]},
        "product_embedding_m1": {"vector": [[1.0] * 256], "content_hash": ["x"], "model_version": ["m1"]},
    }
    frame = pd.DataFrame(common | {"version": [9]} | rows[view] | changed)
    with pytest.raises(InvalidFeatureError, match=message):
        store.feast.write_to_online_store(view, df=frame)
    assert same(store.read_features("a")["a"], make_product("a", 1))
    assert same(store.read_embeddings("m1", "a")["a"], make_embedding("a", 1))


@_IBIS
def test_a_point_in_time_join_has_the_values_of_each_time(store: ProductFeatureStore) -> None:
    store.ensure_model_version("m-2.0")
    for version in (1, 2, 3):
        product = make_product("a", version, event_time=NOON + timedelta(hours=version))
        store.write_features([product, make_product("b", version, event_time=product.event_time)])
        embedding = make_embedding("a", version, "m-2.0", event_time=product.event_time)
        store.write_embeddings("m-2.0", [embedding])
        store.write_embeddings("m-2.0", [embedding])  # delivered twice
    labels = pd.DataFrame(
        {
            "row": range(5),
            "product_id": ["a", "a", "a", "b", "a"],
            "event_timestamp": [pd.Timestamp(NOON + timedelta(hours=h)) for h in (1, 2.5, 2.5, 99, 0.5)],
        }
    )
    features = ["product_offer:amount_minor", "product_text:title", "product_embedding_m-2.0:vector"]
    result = store.feast.get_historical_features(labels, features).to_df().sort_values("row")
    assert result["row"].tolist() == [0, 1, 2, 3, 4]
    assert result["amount_minor"].tolist()[:4] == [100, 200, 200, 300]
    assert result["title"].tolist()[:4] == [f"title of {p} at {v}" for p, v in (("a", 1), ("a", 2), ("a", 2), ("b", 3))]
    assert result[["amount_minor", "title"]].iloc[4].isna().all()
    expected = make_embedding("a", 2, "m-2.0").vector
    assert np.array_equal(np.array(result["vector"].iloc[1], np.float32), expected)


@_IBIS
def test_materialising_rebuilds_a_lost_online_store_and_spares_fresher_values(tmp_path: Path) -> None:
    with ProductFeatureStore.open(tmp_path) as store:
        store.ensure_model_version("m1")
        store.write_features([make_product(id, 1) for id in "abc"])
        store.write_embeddings("m1", [make_embedding(id, 1) for id in "abc"])
        store.delete([Deletion(id="b", version=2, event_time=NOON + timedelta(seconds=1))])
    for path in store.home.glob("online.db*"):
        path.unlink()
    with ProductFeatureStore.open(tmp_path) as store:
        fresh = make_product("c", 9)
        store.write_features([fresh])
        store.feast.materialize(NOON - timedelta(days=1), NOON + timedelta(days=1))
        products = store.read_features("abc")
        assert same(products["a"], make_product("a", 1))
        assert products["b"].deleted
        assert products["b"].version == 2
        assert same(products["c"], fresh)
        embeddings = store.read_embeddings("m1", "abc")
        assert same(embeddings["a"], make_embedding("a", 1))
        assert embeddings["b"].deleted


def feast(folder: Path, *arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [str(FEAST), "-c", str(folder), *arguments],
        cwd="/",
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_feast_command_line_works_in_the_state_folder_and_apply_forgets_nothing(tmp_path: Path) -> None:
    with ProductFeatureStore.open(tmp_path) as store:
        store.ensure_model_version("m1")
        store.write_embeddings("m1", [make_embedding("a")])
    feast(store.home, "apply")
    listed = feast(store.home, "feature-views", "list")
    for name in (*FIXED_VIEWS, "product_embedding_m1"):
        assert name in listed
    with ProductFeatureStore.open(tmp_path) as store:
        assert same(store.read_embeddings("m1", "a")["a"], make_embedding("a"))


def test_feast_apply_works_on_the_package_with_the_environment_variable(tmp_path: Path) -> None:
    home = tmp_path / "feast"
    home.mkdir()
    package = Path(feature_repo.__file__).parent
    feast(package, "apply", "--skip-source-validation", SAGELIFT_FEAST=str(home))
    with ProductFeatureStore.open(tmp_path) as store:
        store.write_features([make_product("a")])
        assert same(store.read_features("a")["a"], make_product("a"))
    profile = yaml.safe_load((package / "feature_store.yaml").read_text())
    written = yaml.safe_load((home / "feature_store.yaml").read_text())
    assert profile["offline_store"] == written["offline_store"]


def _write_versions(state_dir: Path, versions: list[int], barrier: Any) -> None:
    with ProductFeatureStore.open(state_dir) as store:
        barrier.wait(120)
        for version in versions:
            store.write_features([make_product("contested", version), make_product(f"own{os.getpid()}", version)])


def _write_for_ever(state_dir: Path, ready: Any) -> None:
    with ProductFeatureStore.open(state_dir) as store:
        for version in range(1, 1_000_000):
            store.write_features([make_product(f"p{i}", version) for i in range(20)])
            if version == 3:
                ready.set()


def test_processes_that_race_for_one_product_leave_the_newest_version_whole(tmp_path: Path) -> None:
    """Both also open the store for the first time at once."""
    versions = list(range(1, 61))
    random.Random(3).shuffle(versions)
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    processes = [context.Process(target=_write_versions, args=(tmp_path, versions[i::2], barrier)) for i in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(240)
    assert [process.exitcode for process in processes] == [0, 0]
    with ProductFeatureStore.open(tmp_path) as store:
        assert same(store.read_features(["contested"])["contested"], make_product("contested", 60))
        assert len(list(store.product_ids())) == 3
        assert len(store.history("product_text").read()) == 120


def test_a_writer_killed_at_any_time_leaves_whole_products_and_whole_parts(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_write_for_ever, args=(tmp_path, ready))
    process.start()
    assert ready.wait(240)
    deadline = time.monotonic() + random.Random().uniform(0, 0.3)
    while time.monotonic() < deadline:
        pass
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(60)
    with ProductFeatureStore.open(tmp_path) as store:
        products = store.read_features(f"p{i}" for i in range(20))
        (version,) = {product.version for product in products.values()}
        assert version >= 3
        assert all(same(product, make_product(id, version)) for id, product in products.items())
        for name in ("product_text", "product_images", "product_offer"):
            past = store.history(name).read(["product_id", "version"])
            assert max(past["version"].to_pylist()) >= version
            assert len(past) % 20 == 0
        assert store.write_features([make_product("p0", version + 10)]) == set()


def _materialize_until_stopped(state_dir: Path, shards: int, reached: Any) -> None:
    """Materialize, and after so many shards wait to be killed in the middle of the run."""
    with ProductFeatureStore.open(state_dir) as store:

        def tell(progress: Progress) -> None:
            if progress.done == shards * 50:
                reached.set()
                signal.pause()

        materialize(store, views=["product_offer"], shard_rows=50, progress=tell)


def _lose_online(store: ProductFeatureStore) -> None:
    store.feast.provider.online_store.disconnect()
    for path in store.home.glob("online.db*"):
        path.unlink()


def test_a_materialisation_killed_in_the_middle_bars_nobody_and_is_gone_on_with(tmp_path: Path) -> None:
    """While it runs a second run is refused; after kill -9 the next run resumes and repeats one shard at most."""
    ids = [f"p{i:03}" for i in range(500)]
    with ProductFeatureStore.open(tmp_path) as store:
        store.write_features([make_product(id, images=0) for id in ids])
        expected = store.read_offers(ids)
        _lose_online(store)
    context = multiprocessing.get_context("spawn")
    reached = context.Event()
    owner = context.Process(target=_materialize_until_stopped, args=(tmp_path, 4, reached))
    owner.start()
    assert reached.wait(240)
    with ProductFeatureStore.open(tmp_path) as store:
        summary = materialize(store, views=["product_offer"], shard_rows=50)
        assert (summary.exit_code, summary.views[0].outcome) == (4, "locked")
        assert f"pid {owner.pid}" in summary.views[0].message
        assert owner.pid is not None
        os.kill(owner.pid, signal.SIGKILL)
        owner.join(60)
        assert len(store.read_offers(ids)) == 200
        fresh = OfferRow(id="p499", version=9, event_time=NOON, amount_minor=9)
        online = store.feast.provider.online_store
        online.write(store.feast.config, [(store.feast.get_feature_view("product_offer"), [online_row(_OFFER, fresh)])])
        (result,) = materialize(store, views=["product_offer"], shard_rows=50).views
        assert result.outcome == "done"
        assert result.resumed in (150, 200), "the last shard may have been online without its checkpoint"
        assert result.resumed + result.written + result.kept == 500
        assert result.reconciliation is not None
        assert (result.reconciliation.equal, result.reconciliation.fresher) == (499, 1)
        offers = store.read_offers(ids)
        assert offers.pop("p499") == fresh
        assert offers == {id: offer for id, offer in expected.items() if id != "p499"}


@_IBIS
def test_feasts_own_job_and_ours_leave_the_same_values(tmp_path: Path) -> None:
    """Each job fills its own online store from one history; a second job on the same store changes nothing."""
    with ProductFeatureStore.open(tmp_path) as store:
        store.ensure_model_version("m1")
        for version in (1, 2):
            store.write_features([make_product(f"p{i}", version, images=i % 3) for i in range(20)])
        store.write_embeddings("m1", [make_embedding(f"p{i}", 2) for i in range(20)])
        store.delete([Deletion(id="p3", version=5, event_time=NOON + timedelta(seconds=1))])
        _lose_online(store)
    ids = [f"p{i}" for i in range(20)]
    with ProductFeatureStore.open(tmp_path) as store:
        store.feast.materialize(NOON - timedelta(days=1), NOON + timedelta(days=1))
        features, embeddings = store.read_features(ids), store.read_embeddings("m1", ids)
        assert materialize(store, full=True).exit_code == 0
        _lose_online(store)
    with ProductFeatureStore.open(tmp_path) as store:
        assert materialize(store).exit_code == 0
        for _ in range(2):
            assert all(same(row, features[id]) for id, row in store.read_features(ids).items())
            assert all(same(row, embeddings[id]) for id, row in store.read_embeddings("m1", ids).items())
            assert len(store.read_features(ids)) == 20
            store.feast.materialize(NOON - timedelta(days=1), NOON + timedelta(days=1))


def test_the_exit_codes_of_the_commands_show_their_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SAGELIFT_STATE_DIR", str(tmp_path))
    with ProductFeatureStore.open(tmp_path) as store:
        store.write_features([make_product(id, event_time=datetime.now(UTC)) for id in "ab"])
    run = CliRunner().invoke

    done = run(app, ["features", "materialize", "--full", "--json"])
    summary = json.loads(done.stdout)
    assert (done.exit_code, summary["exit_code"], summary["mode"]) == (0, 0, "full")
    written = {view["view"]: view["written"] for view in summary["views"]}
    assert written.items() >= dict.fromkeys(("product_text", "product_images", "product_offer"), 2).items()
    assert "2 products in 2 parts: 2 to write" in run(app, ["features", "materialize", "--dry-run", "--full"]).stdout

    seen = run(app, ["features", "status", "--max-age", "1h", "--json"])
    assert seen.exit_code == 0
    assert {view["view"]: view["products"] for view in json.loads(seen.stdout)["views"]} == {
        "product_text": 2, "product_images": 2, "product_offer": 2, "user_recent": 0,
    }  # fmt: skip
    late = run(app, ["features", "status", "--max-age", "0.000001s", "--json"])
    assert late.exit_code == 1
    assert len(json.loads(late.stdout)["findings"]) == 3
    assert (
        'sagelift_features_products{view="product_text"} 2' in run(app, ["features", "status", "--prometheus"]).stdout
    )
    assert "product_text" in run(app, ["features", "status"]).stdout

    (tmp_path / "feast/history/product_offer/part-x.parquet").write_bytes(b"PAR1 torn")
    torn = run(app, ["features", "materialize", "--json"])
    assert torn.exit_code == 3
    assert "part-x.parquet" in json.loads(torn.stdout)["views"][2]["message"]


def test_times_before_the_epoch_and_far_ahead_survive(store: ProductFeatureStore) -> None:
    for version, at in enumerate((datetime(1969, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC))):
        store.write_features([make_product("a", version, event_time=at)])
        assert store.read_features("a")["a"].event_time == at

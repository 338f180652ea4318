"""The jobs over the whole catalogue on a real Spark have the same results and checks as without it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from feature_repo.jobs.materialize import Progress, Summary, materialize
from feature_repo.jobs.spark import SparkEngine, SparkError, spark_session
from feature_repo.online_row import OnlineRow, payload_columns
from feature_repo.rows import Deletion, OfferRow
from feature_repo.store import ProductFeatureStore
from feature_repo.values import encode_key
from sagelift.commands.cli import app
from sagelift.commands.engines import open_context
from sagelift.settings import load_settings
from sagelift.stack.kafka import KafkaBroker
from sagelift.stack.triton import TritonServer
from streaming.release.catalogue_shards import EmbeddingContext, EmbeddingWorkers
from streaming.release.reconcile import reconcile
from streaming.release.reembed import reembed
from tests.feature_repo.builders import NOON, make_embedding, make_product
from tests.integration.feature_servers import POSTGRES, PostgresServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

OFFERS = "product_offer"
Open = Callable[[], ProductFeatureStore]


@pytest.fixture(scope="module")
def kafka(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    """A broker of its own: other tests count the vectors on theirs."""
    with KafkaBroker(tmp_path_factory.mktemp("kafka"), cache) as broker:
        yield broker


@pytest.fixture
def engine(spark: Any) -> SparkEngine:
    """Two cores of this machine."""
    return SparkEngine(spark)


@pytest.fixture(params=["sqlite", "postgres"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """A store in the test's folder, its online store on the named server; all are closed in the end."""
    if request.param == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres")
        home = tmp_path / "feast"
        home.mkdir()
        settings = {"type": POSTGRES, "conninfo": server.conninfo}
        (home / "online_store.yaml").write_text(yaml.safe_dump(settings))
    opened: list[ProductFeatureStore] = []

    def open_one() -> ProductFeatureStore:
        opened.append(ProductFeatureStore.open(tmp_path))
        return opened[-1]

    yield open_one
    last = opened[-1]
    last.feast.provider.online_store.teardown(last.feast.config, last.feast.list_feature_views(), [])
    for store in opened:
        store.close()


def lose_online(store: ProductFeatureStore) -> None:
    views = store.feast.list_feature_views()
    online = store.feast.provider.online_store
    online.update(store.feast.config, views, [], [], [], partial=False)
    online.update(store.feast.config, [], views, [], [], partial=False)


def online_rows(store: ProductFeatureStore) -> dict[str, dict[bytes, OnlineRow]]:
    """Every row of every view as the database has it."""
    online, config = store.feast.provider.online_store, store.feast.config
    result = {}
    for view in store.feast.list_feature_views():
        ids = store.history(view.name).read([view.join_keys[0]])[view.join_keys[0]].to_pylist()
        keys = [encode_key(id, view.join_keys[0]) for id in ids]
        (rows,) = online.read(config, [(view, payload_columns(view))], keys, own_versions=True)
        result[view.name] = {key: row._replace(values=tuple(row.values)) for key, row in rows.items()}
    return result


def told(summary: Summary) -> list[dict[str, Any]]:
    """The parts of a summary that do not depend on time."""
    views: list[dict[str, Any]] = msgspec.to_builtins(summary.views)
    return [{k: v for k, v in view.items() if k not in ("seconds", "rows_per_s")} for view in views]


def test_a_session_that_runs_already_is_used_and_left(engine: SparkEngine) -> None:
    with spark_session("local[2]") as session:
        assert list(SparkEngine(session).map(len, ["four"])) == [4]
    refused = pytest.raises(SparkError, match=r"already has a Spark session on local\[2\], not on local\[7\]")
    with refused, spark_session("local[7]"):
        raise AssertionError("another session")
    assert list(engine.map(len, ["sixsix"])) == [6]


def test_spark_and_this_process_leave_the_same_rows(open_store: Open, engine: SparkEngine) -> None:
    """All rows, counts and checksums are equal, with several versions, a deletion, and parts of any size."""
    store = open_store()
    store.ensure_model_version("m1")
    ids = [f"p{i:02}" for i in range(60)]
    for version in (1, 2):
        store.write_features([make_product(id, version, images=version) for id in ids[:: 3 - version]])
    store.write_embeddings("m1", [make_embedding(id, 2) for id in ids])
    store.delete([Deletion(id="p03", version=5, event_time=NOON)])
    left = {}
    for chosen in (None, engine):
        lose_online(store)
        assert not any(online_rows(store).values())
        summary = materialize(store, shard_rows=16, engine=chosen)
        assert summary.exit_code == 0, summary
        left[chosen] = online_rows(store), told(summary)
    assert left[engine] == left[None]
    assert {name: len(rows) for name, rows in left[engine][0].items()}["product_text"] == 60
    assert left[engine][0]["product_embedding_m1"]


def test_what_is_fresher_online_stays(open_store: Open, engine: SparkEngine) -> None:
    store = open_store()
    store.write_features([make_product(f"p{i:02}", 1, images=0) for i in range(40)])
    parts = store.history(OFFERS).parts()
    store.write_offers([OfferRow(id="p07", version=9, event_time=NOON, amount_minor=9)])
    for part in set(store.history(OFFERS).parts()) - set(parts):
        part.unlink()
    (result,) = materialize(store, views=[OFFERS], full=True, shard_rows=16, engine=engine).views
    assert (result.outcome, result.written, result.kept) == ("done", 39, 1)
    assert result.reconciliation is not None
    assert (result.reconciliation.equal, result.reconciliation.fresher) == (39, 1)
    assert store.read_offers(["p07"])["p07"].version == 9


class StopHere(Exception):
    """Stands for the death of the driver at this point."""


def test_a_run_on_spark_is_alone_with_its_view_and_gone_on_with_by_either_engine(
    open_store: Open, engine: SparkEngine
) -> None:
    store = open_store()
    store.write_features([make_product(f"p{i:03}", 1, images=0) for i in range(200)])
    lose_online(store)
    meanwhile: list[Summary] = []

    def stop(progress: Progress) -> None:
        meanwhile.append(materialize(store, views=[OFFERS]))
        if len(meanwhile) == 3:
            raise StopHere

    with pytest.raises(StopHere):
        materialize(store, views=[OFFERS], shard_rows=10, engine=engine, progress=stop)
    assert [summary.exit_code for summary in meanwhile] == [4, 4, 4]
    (result,) = materialize(store, views=[OFFERS], shard_rows=10).views
    assert (result.outcome, result.resumed) == ("done", 30)
    assert result.written + result.kept == 170
    assert result.kept <= 40, "those whose shards were handed out when it died, and no more"
    assert result.reconciliation is not None
    assert result.reconciliation.equal == 200


def test_an_executors_error_comes_back_in_its_own_words(open_store: Open, engine: SparkEngine) -> None:
    store = open_store()
    store.write_features([make_product(f"p{i:02}", 1, images=0) for i in range(20)])
    lose_online(store)
    whole = store.history(OFFERS).parts()[-1]
    group = pq.read_metadata(whole).row_group(0)
    (amounts,) = (c for c in map(group.column, range(group.num_columns)) if c.path_in_schema == "amount_minor")
    torn = bytearray(whole.read_bytes())
    size = amounts.total_compressed_size
    torn[amounts.data_page_offset : amounts.data_page_offset + size] = bytes(size)  # the plan does not read it
    whole.write_bytes(torn)
    summary = materialize(store, views=[OFFERS], shard_rows=5, engine=engine)
    assert summary.exit_code == 3
    assert str(whole) in summary.views[0].message
    assert "Move it away" in summary.views[0].message


@contextmanager
def installation(state: Path, kafka: KafkaBroker, triton: TritonServer, models: Path) -> Iterator[Any]:
    from sagelift.services import Services

    settings = load_settings(
        state_dir=state,
        kafka={"bootstrap_servers": kafka.bootstrap},
        triton={"url": triton.grpc, "model_repository": models},
    )
    with Services(settings) as services:
        yield services


def test_a_catalogue_embedded_by_executors_is_the_one_embedded_here(
    engine: SparkEngine, kafka: KafkaBroker, triton: TritonServer, model_repository: Path, tmp_path: Path
) -> None:
    """With the real Triton and Kafka, the vectors are the same and the reconciliation finds no difference."""
    from inference.triton.embedder import ItemEmbedder
    from streaming.kafka.topic_admin import ensure_topics

    with installation(tmp_path, kafka, triton, model_repository) as services:
        ensure_topics(services.kafka)
        store = services.features
        store.ensure_model_version("1")
        ids = [f"p{i:02}" for i in range(70)]
        store.write_features([make_product(id, 1, images=1) for id in ids])
        embedder = ItemEmbedder(services.triton, model_repository, version="1")
        publish = services.publishers()[0]
        workers = EmbeddingWorkers(engine, partial(open_context, services.settings))
        context = EmbeddingContext(store, embedder, publish)
        progress: list[int] = []
        counts, rejected = reembed(context, shard_products=16, workers=workers, on_progress=progress.append)
        assert (counts["embedded"], rejected, progress[-1], len(progress)) == (70, {}, 70, 5)
        remote_vectors = {id: row.vector for id, row in store.read_embeddings("1", ids).items()}
        result, _ = reconcile(context, rejected, shard_products=16, workers=workers)
        assert (result.ok, result.products, result.embedded, result.shards) == (True, 70, 70, 5)
        assert reconcile(context, rejected, shard_products=16) == (result, rejected)
        answer = embedder.embed_products(_inputs(store, ids))
        for id, vector in zip(ids, answer.vectors, strict=True):
            assert vector @ remote_vectors[id] > 0.999


def _inputs(store: ProductFeatureStore, ids: list[str]) -> list[Any]:
    from inference.inputs import ProductInput

    products = store.read_features(ids)
    return [ProductInput(id, products[id].text, products[id].image_vectors) for id in ids]


def test_the_commands_work_on_spark(
    engine: SparkEngine,
    kafka: KafkaBroker,
    triton: TritonServer,
    model_repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A lost online store is filled, and a release made live with the catalogue embedded by executors."""
    with installation(tmp_path, kafka, triton, model_repository) as services:
        services.features.write_features([make_product(f"p{i:02}", 1, images=1) for i in range(30)])
        lose_online(services.features)
        environment = services.settings.environment()
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    on_spark = ["--engine", "spark", "--master", "local[2]", "--json"]
    filled = CliRunner().invoke(app, ["features", "materialize", *on_spark])
    assert filled.exit_code == 0, filled.output
    assert {view["view"]: view["written"] for view in json.loads(filled.stdout)["views"]}[OFFERS] == 30
    live = CliRunner().invoke(app, ["model", "live", "1", *on_spark])
    assert live.exit_code == 0, live.output
    result = json.loads(live.stdout)["reconciliation"]
    assert (result["products"], result["embedded"], result["missing"], result["stale"]) == (30, 30, 0, 0)


def test_a_master_without_spark_is_refused() -> None:
    refused = CliRunner().invoke(app, ["features", "materialize", "--master", "local[2]"])
    assert refused.exit_code == 2
    assert "add --engine spark" in refused.output

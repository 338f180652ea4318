"""One conformance suite for the guarded online stores, on real servers: SQLite, PostgreSQL, Redis.

Tests of one store alone are at the end; those of SQLite are in tests/feature_repo/stores/test_sqlite.py.
"""

from __future__ import annotations

import os
import random
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import FloatList, Value
from feast.types import Array, Bool, Float32, Int64, String

from feature_repo.errors import InvalidFeatureError, StoreBusyError, StoreStateError
from feature_repo.jobs.materialize import materialize
from feature_repo.online_row import OnlineRow
from feature_repo.profile import write_repository
from feature_repo.recent import Engagement
from feature_repo.rows import Deletion, OfferRow
from feature_repo.store import ProductFeatureStore
from feature_repo.values import NULL, decode_key, encode_key
from tests.feature_repo.builders import NOON, make_embedding, make_product, same
from tests.integration.feature_servers import POSTGRES, REDIS, PostgresServer, RedisServer

pytestmark = pytest.mark.integration

EARLY = datetime(2026, 1, 1, 0, 0, 0, 100, tzinfo=UTC)


Settings = Callable[[str], dict[str, Any]]


@pytest.fixture
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """`online_store` of feature_store.yaml by the store's name; only the server that is asked for is started."""

    def of(kind: str) -> dict[str, Any]:
        if kind == "postgres":
            return {"type": POSTGRES, "conninfo": request.getfixturevalue("postgres").conninfo}
        if kind == "redis":
            return {"type": REDIS, "url": request.getfixturevalue("redis").url}
        return {"type": "feature_repo.stores.sqlite.GuardedSqliteOnlineStore", "path": str(tmp_path / "online.db")}

    return of


# The views.


def view(name: str, *features: Field, **tags: str) -> FeatureView:
    product = Entity(name="product", join_keys=["product_id"], value_type=ValueType.STRING)
    return FeatureView(
        name=name,
        entities=[product],
        schema=[Field(name="product_id", dtype=String), *features],
        source=FileSource(name=name, path="/nowhere/*.parquet", timestamp_field="event_timestamp"),
        tags=tags,
    )


GUARD = (Field(name="version", dtype=Int64), Field(name="deleted", dtype=Bool))
TITLES = view("titles", Field(name="title", dtype=String), *GUARD)
PRICES = view("prices", Field(name="price", dtype=Int64), *GUARD)
DETAILS = view("details", Field(name="title", dtype=String), *GUARD, follows="prices")
TIMED = view("timed", Field(name="title", dtype=String))  # orders by event time
POINTS = view(
    "points",
    Field(name="point", dtype=Array(Float32), vector_index=True, vector_length=2, vector_search_metric="L2"),
    *GUARD,
)


class Online:
    """A store with its own project, called as Feast calls it."""

    def __init__(self, settings: dict[str, Any], folder: Path) -> None:
        self.config = RepoConfig(
            project=f"p{uuid.uuid4().hex[:8]}",
            registry=str(folder / "registry.pb"),
            online_store=settings,
            entity_key_serialization_version=3,
        )
        self.store: Any = FeatureStore(config=self.config).provider.online_store

    def make(self, *views: FeatureView) -> None:
        self.store.update(self.config, [], views, [], [], partial=True)

    def put(self, title: str, version: int, id: str = "a", deleted: bool = False, time: datetime = EARLY) -> None:
        values = {"title": Value(string_val=title), "version": Value(int64_val=version)}
        self.feast_write(TITLES, [(key(id), values | {"deleted": Value(bool_val=deleted)}, time, None)])

    def feast_write(self, table: FeatureView, data: Sequence[Any]) -> None:
        self.store.online_write_batch(self.config, table, data, None)

    def get(self, *ids: str, table: FeatureView = TITLES) -> list[Any]:
        rows = self.store.online_read(self.config, table, [key(id) for id in ids])
        return [values and (values["title"].string_val, values["version"].int64_val) for _, values in rows]

    def row(self, id: str, table: FeatureView = TITLES, **options: Any) -> Any:
        names = [f.name for f in table.features if f.name not in ("version", "deleted")]
        (result,) = self.store.read(self.config, [(table, names)], [encode_key(id)], **options)
        return result.get(encode_key(id))

    def write(self, *batches: tuple[FeatureView, list[OnlineRow]], **options: Any) -> list[set[str]]:
        stale = self.store.write(self.config, batches, **options)
        return [{decode_key(key) for key in keys} for keys in stale]


def key(id: str) -> EntityKey:
    return EntityKey(join_keys=["product_id"], entity_values=[Value(string_val=id)])


def title(id: str, version: int, text: str = "x", deleted: bool = False, event_us: int = 0) -> OnlineRow:
    value = None if deleted else Value(string_val=text).SerializeToString()
    return OnlineRow(encode_key(id), version, deleted, event_us, [value])


@pytest.fixture(params=["sqlite", "postgres", "redis"])
def online(request: pytest.FixtureRequest, settings: Settings, tmp_path: Path) -> Iterator[Online]:
    online = Online(settings(request.param), tmp_path)
    online.make(TITLES, PRICES, DETAILS, TIMED, POINTS)
    yield online
    online.store.disconnect()


# The newest version wins.


def test_an_older_version_never_overwrites_a_newer_one(online: Online) -> None:
    for version in (3, 1, 7, 2, 6):
        online.put(f"v{version}", version)
    assert online.get("a") == [("v7", 7)]


def test_versions_decide_and_event_times_do_not(online: Online) -> None:
    online.put("new", 2, time=EARLY)
    online.put("old", 1, time=EARLY + timedelta(days=1))
    assert online.get("a") == [("new", 2)]


@pytest.mark.parametrize(("low", "high"), [(0, 1), (2**53, 2**53 + 1), (2**63 - 2, 2**63 - 1), (9, 10)])
def test_versions_are_compared_to_the_last_of_63_bits(online: Online, low: int, high: int) -> None:
    online.put("low", low)
    online.put("high", high)
    online.put("low again", low)
    assert online.get("a") == [("high", high)]


def test_an_equal_version_is_written_again_unless_the_caller_refuses_it(online: Online) -> None:
    for text, equal, stale in (("one", True, set()), ("two", True, set()), ("three", False, {"a"})):
        assert online.write((TITLES, [title("a", 1, text)]), equal=equal) == [stale]
    assert online.get("a") == [("two", 1)]
    assert online.write((TITLES, [title("a", 2, "four")]), equal=False) == [set()]
    assert online.get("a") == [("four", 2)]


def test_the_newest_row_of_a_batch_wins_and_the_last_of_equal_versions(online: Online) -> None:
    rows = [title("a", 1), title("a", 5, "first"), title("b", 2), title("a", 5, "last"), title("a", 3)]
    assert online.write((TITLES, rows)) == [set()]
    assert online.get("a", "b") == [("last", 5), ("x", 2)]


def test_refused_keys_are_returned_by_batch(online: Online) -> None:
    online.put("newer", 5)
    price = OnlineRow(encode_key("a"), 1, False, 0, [NULL])
    assert online.write((TITLES, [title("a", 4), title("b", 4)]), (PRICES, [price]), (TITLES, [])) == [
        {"a"},
        set(),
        set(),
    ]


def test_a_view_without_versions_is_ordered_by_microseconds_before_the_epoch_too(online: Online) -> None:
    for start in (EARLY, datetime(1960, 1, 1, tzinfo=UTC)):
        for microsecond in (200, 900, 300):
            time = start.replace(microsecond=microsecond)
            online.feast_write(TIMED, [(key(f"{start:%Y}"), {"title": Value(string_val=f"{microsecond}")}, time, None)])
        ((result, values),) = online.store.online_read(online.config, TIMED, [key(f"{start:%Y}")])
        assert (values["title"].string_val, result) == ("900", start.replace(microsecond=900))


def test_a_deleted_product_is_absent_and_an_older_upsert_cannot_pass(online: Online) -> None:
    online.put("live", 1)
    online.put("secret", 3, deleted=True)
    assert online.get("a") == [None]
    online.put("late", 2)
    assert online.get("a") == [None]
    row = online.row("a")
    assert (row.version, row.deleted, list(row.values)) == (3, True, [None])
    online.put("back", 4)
    assert online.get("a") == [("back", 4)]


def test_a_view_follows_in_version_keeps_its_features_and_refuses_older_rows(online: Online) -> None:
    online.write((TITLES, [title("a", 1, "kept")]), (PRICES, [OnlineRow(encode_key("a"), 1, False, 0, [NULL])]))
    price = [OnlineRow(encode_key(id), 5, False, 77, [NULL]) for id in ("a", "unknown")]
    online.write((PRICES, price), advance=[TITLES])
    row = online.row("a")
    assert (row.version, row.event_us, online.get("a")) == (5, 77, [("kept", 5)])
    own = online.row("a", own_versions=True)
    assert (own.version, own.event_us) == (1, 0)
    assert online.row("unknown") is None, "a view follows only where it has a row"
    assert online.write((TITLES, [title("a", 4)])) == [{"a"}]
    online.write((PRICES, [OnlineRow(encode_key("a"), 9, False, 0, [NULL])]), advance=[TITLES])
    assert online.row("a").version == 9
    assert online.write((TITLES, [title("a", 9, "new")])) == [set()]
    assert online.get("a") == [("new", 9)]


def test_a_view_that_always_follows_another_does_so_in_either_order_of_writes(online: Online) -> None:
    def detail(version: int, text: str) -> list[OnlineRow]:
        return [title("a", version, text, event_us=10 * version)]

    def price(version: int) -> list[OnlineRow]:
        return [OnlineRow(encode_key("a"), version, False, 10 * version, [NULL])]

    online.write((DETAILS, detail(1, "first")), (PRICES, price(1)))
    online.write((PRICES, price(5)), advance=[DETAILS])
    row, own = online.row("a", DETAILS), online.row("a", DETAILS, own_versions=True)
    assert (row.version, row.event_us, own.version, own.event_us) == (5, 50, 1, 10)
    assert online.write((DETAILS, detail(4, "late"))) == [{"a"}]
    assert online.write((DETAILS, detail(7, "next")), advance=[PRICES]) == [set()]
    row, own = online.row("a", PRICES), online.row("a", PRICES, own_versions=True)
    assert (row.version, row.event_us, own.version, own.event_us) == (7, 70, 5, 50)
    assert online.write((PRICES, price(6)), advance=[DETAILS]) == [{"a"}]
    assert online.get("a", table=DETAILS) == [("next", 7)]
    assert online.write((PRICES, price(8)), advance=[DETAILS]) == [set()]
    assert online.get("a", table=DETAILS) == [("next", 8)]


@pytest.mark.parametrize("table", [TITLES, DETAILS], ids=lambda view: view.name)
def test_a_repair_compares_only_the_versions_that_rows_were_written_under(online: Online, table: FeatureView) -> None:
    online.write((table, [title("a", 3, "damaged")]))
    online.write((PRICES, [OnlineRow(encode_key("a"), 9, False, 0, [NULL])]), advance=[table])
    lost = [title("a", 5, "lost")]
    assert online.write((table, lost)) == [{"a"}]
    assert online.write((table, lost), repair=True) == [set()]
    assert online.get("a", table=table) == [("lost", 9)]
    assert online.write((table, [title("a", 4)]), repair=True) == [{"a"}]


def test_a_refused_row_advances_nothing(online: Online) -> None:
    online.write((TITLES, [title("a", 1)]), (PRICES, [OnlineRow(encode_key("a"), 8, False, 0, [NULL])]))
    online.write((PRICES, [OnlineRow(encode_key("a"), 7, False, 0, [NULL])]), advance=[TITLES])
    assert online.row("a").version == 1


# Reading.


def test_rows_come_in_the_order_of_the_requested_ids_with_unknown_and_repeated_ones(online: Online) -> None:
    for id in ("b", "a", "c"):
        online.put(id.upper(), 1, id)
    assert online.get("c", "nope", "a", "c") == [("C", 1), None, ("A", 1), ("C", 1)]
    assert online.get() == []


def test_only_requested_features_are_read(online: Online) -> None:
    online.put("x", 1)
    ((_, values),) = online.store.online_read(online.config, TITLES, [key("a")], ["version"])
    assert set(values) == {"version"}


def test_forty_thousand_ids_are_read(online: Online) -> None:
    online.put("x", 1, "p39999")
    assert online.get(*(f"p{i}" for i in range(40_000)))[-1] == ("x", 1)


def test_several_thousand_rows_are_written_and_read_back(online: Online) -> None:
    rows = [title(f"p{i}", i, f"title {i}") for i in range(3000)]
    assert online.write((TITLES, rows)) == [set()]
    assert online.get(*(f"p{i}" for i in range(3000))) == [(f"title {i}", i) for i in range(3000)]
    assert online.store.count(online.config, TITLES) == 3000


def test_pages_are_in_key_order_and_hold_live_rows_only(online: Online) -> None:
    online.write((TITLES, [title(id, 1) for id in "cabdfe"]))
    online.write((TITLES, [title(id, 2, deleted=True) for id in "bde"]))
    first = online.store.page(online.config, TITLES, ["title"], limit=2)
    rest = online.store.page(online.config, TITLES, ["title"], after=first[-1].key, limit=2)
    assert [decode_key(row.key) for row in [*first, *rest]] == ["a", "c", "f"]
    assert all(Value.FromString(row.values[0]).string_val == "x" for row in first)


def test_vector_search_is_exact_ordered_by_id_and_finds_no_deleted_product(online: Online) -> None:
    at = {"z": (0.0, 0.0), "a": (3.0, 4.0), "m": (0.0, 1.0), "far": (9.0, 9.0), "gone": (0.1, 0.0)}
    rows = [
        OnlineRow(encode_key(id), 1, False, 0, [Value(float_list_val=FloatList(val=p)).SerializeToString()])
        for id, p in at.items()
    ]
    online.write((POINTS, rows))
    online.write((POINTS, [OnlineRow(encode_key("gone"), 2, True, 0, [None])]))
    documents = online.store.retrieve_online_documents_v2(online.config, POINTS, [], [0.0, 0.0], 3)
    assert [(k.entity_values[0].string_val, v["distance"].float_val) for _, k, v in documents] == [
        ("a", 5.0),
        ("m", 1.0),
        ("z", 0.0),
    ]


# Bad input, all or nothing.


@pytest.mark.parametrize("text", ["before\0after", "\0", "", "Łódź \U0001f45f", "'; drop table x; --", "{}%s%b"])
def test_any_text_survives_and_the_store_works_on(online: Online, text: str) -> None:
    online.put(text, 1, f"id {text}")
    online.put("next", 1, "b")
    assert online.get(f"id {text}", "b") == [(text, 1), ("next", 1)]


def test_a_row_without_all_features_is_refused_and_nothing_of_its_batch_is_written(online: Online) -> None:
    whole = {"title": Value(string_val="x"), "version": Value(int64_val=1), "deleted": Value(bool_val=False)}
    with pytest.raises(InvalidFeatureError, match=r"lacks \['deleted', 'version'\]"):
        online.feast_write(TITLES, [(key("a"), whole, EARLY, None), (key("b"), {"title": Value()}, EARLY, None)])
    assert online.get("a", "b") == [None, None]


def test_a_refused_batch_writes_nothing_and_the_store_works_on(online: Online) -> None:
    poison: Any = object()
    for _ in range(3):
        with pytest.raises(Exception, match=r"binding|adapt|Invalid input"):
            online.write((TITLES, [title("b", 1)]), (TITLES, [OnlineRow(encode_key("c"), 1, False, 0, [poison])]))
        assert online.get("b", "c") == [None, None]
        online.put("works", 1)
        assert online.get("a") == [("works", 1)]


def test_several_views_are_written_all_or_none(online: Online) -> None:
    unknown = view("unknown", Field(name="title", dtype=String), *GUARD)
    with pytest.raises(StoreStateError, match="feast apply"):
        online.write((TITLES, [title("a", 1)]), (unknown, [title("a", 1)]))
    assert online.get("a") == [None]
    with pytest.raises(StoreStateError, match="feast apply"):
        online.store.online_read(online.config, unknown, [key("a")])


# Views and their tables.


def test_a_dropped_view_loses_its_rows(online: Online) -> None:
    assert online.store.tables(online.config, "") == ["details", "points", "prices", "timed", "titles"]
    assert online.store.tables(online.config, "ti") == ["timed", "titles"]
    online.write((TITLES, [title("a", 1)]), (PRICES, [OnlineRow(encode_key("a"), 1, False, 0, [NULL])]))
    online.store.update(online.config, [TITLES], [], [], [], partial=False)
    assert online.store.tables(online.config, "t") == ["timed"]
    online.make(TITLES)
    assert online.get("a") == [None]
    assert online.store.count(online.config, TITLES) == 0
    assert online.row("a", PRICES).version == 1, "another view's rows stay"


def test_a_views_identity_lasts_until_its_rows_go(online: Online) -> None:
    first = online.store.identity(online.config, TITLES)
    online.put("x", 1)
    online.make(TITLES)
    online.store.disconnect()
    assert online.store.identity(online.config, TITLES) == first
    assert online.store.identity(online.config, PRICES) != first
    online.store.update(online.config, [TITLES], [], [], [], partial=False)
    online.make(TITLES)
    assert online.store.identity(online.config, TITLES) != first


def test_a_feature_added_later_is_null_in_old_rows(online: Online) -> None:
    online.put("x", 1)
    wider = view("titles", Field(name="title", dtype=String), Field(name="size", dtype=String), *GUARD)
    online.make(wider)
    ((_, values),) = online.store.online_read(online.config, wider, [key("a")])
    assert values["title"].string_val == "x"
    assert values["size"].WhichOneof("val") is None


def test_two_projects_share_nothing(online: Online) -> None:
    online.put("mine", 1)
    other = Online(
        online.config.online_store.model_dump() | {"type": online.config.online_store.type}, Path("/nowhere")
    )
    for name, value in online.config.online_store:  # secrets are not dumped
        setattr(other.config.online_store, name, value)
    other.make(TITLES)
    assert other.get("a") == [None]
    other.store.teardown(other.config, [TITLES], [])
    if "sqlite" not in online.config.online_store.type.lower():  # there it removes the file
        assert online.get("a") == [("mine", 1)]


# Threads and processes.


def in_threads(count: int, work: Callable[[int], object]) -> None:
    errors: list[BaseException] = []

    def guarded(n: int) -> None:
        try:
            work(n)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_threads_that_race_for_one_product_leave_the_newest_version(online: Online) -> None:
    versions = list(range(1, 121))
    random.Random(7).shuffle(versions)
    in_threads(4, lambda n: [online.put(f"v{v}", v) for v in versions[n::4]])
    assert online.get("a") == [("v120", 120)]


def test_threads_that_write_the_same_products_in_other_orders_do_not_deadlock(online: Online) -> None:
    def work(n: int) -> None:
        ids = [f"p{i}" for i in range(100)]
        for version in range(10):
            random.Random(n * 100 + version).shuffle(ids)
            prices = [OnlineRow(encode_key(id), version, False, 0, [NULL]) for id in ids]
            online.write((TITLES, [title(id, version, f"{version}") for id in ids]), (PRICES, prices), advance=[TITLES])

    in_threads(3, work)
    assert online.get(*(f"p{i}" for i in range(100))) == [("9", 9)] * 100


def test_a_forked_child_uses_and_closes_only_its_own_connection(online: Online) -> None:
    online.put("parent", 1)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            online.put("child", 2, "b")
            online.store.disconnect()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    online.put("parent again", 3)
    assert online.get("a", "b") == [("parent again", 3), ("child", 2)]


# The whole feature store on it.


@pytest.mark.parametrize("kind", ["postgres", "redis"])
def test_the_feature_store_and_feasts_readers_and_jobs_work_on_it(
    kind: str, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written, read by Feast, searched, lost, and rebuilt from the history."""
    online = settings(kind)
    where = "conninfo" if kind == "postgres" else "url"
    monkeypatch.setenv("SAGELIFT_TEST_STORE", online[where])
    (write_repository(tmp_path) / "online_store.yaml").write_text(
        yaml.safe_dump(online | {where: "${SAGELIFT_TEST_STORE}"})
    )
    ids = [f"p{i}" for i in range(30)]
    with ProductFeatureStore.open(tmp_path) as store:
        store.ensure_model_version("m1")
        store.write_features([make_product(id, 1) for id in ids])
        store.write_embeddings("m1", [make_embedding(id, 1) for id in ids])
        store.delete([Deletion(id="p3", version=5, event_time=NOON)])
        store.write_offers([OfferRow(id="p4", version=9, event_time=NOON, amount_minor=5)])
        store.add_engagements([Engagement("u", "p1", 1)])
        store.add_engagements([Engagement("u", "p2", 5), Engagement("u", "p1", 3)])
        recent = store.read_recent(["u"])
        assert (recent["u"].product_ids, recent["u"].version) == (("p1", "p2"), 2)
        features, embeddings = store.read_features(ids), store.read_embeddings("m1", ids)
        assert features["p3"].deleted
        assert same(features["p7"], make_product("p7", 1))
        assert len(list(store.product_ids())) == 29
        service = store.feast.get_feature_service("itemsage_inputs_v1")
        rows = [{"product_id": id} for id in reversed(ids)]
        read = store.feast.get_online_features(features=service, entity_rows=rows).to_dict()
        for i, id in enumerate(reversed(ids)):
            expected = None if id == "p3" else features[id].text["title"]
            assert (read["product_id"][i], read["title"][i]) == (id, expected)
        query = embeddings["p9"].vector
        result = store.feast.retrieve_online_documents_v2(
            features=["product_embedding_m1:content_hash"], query=query.tolist(), top_k=5
        ).to_dict()
        for id, content_hash, distance in zip(
            result["product_id"], result["content_hash"], result["distance"], strict=True
        ):
            assert content_hash == embeddings[id].content_hash
            assert distance == pytest.approx(1 - embeddings[id].vector @ query, abs=1e-5)
        assert "p9" in result["product_id"]
        views = store.feast.list_feature_views()
        store.feast.provider.online_store.update(store.feast.config, views, [], [], [], partial=False)
        store.feast.provider.online_store.update(store.feast.config, [], views, [], [], partial=False)
        assert store.read_features(ids) == {}
        summary = materialize(store, shard_rows=8)
        outcomes = {v.view: (v.outcome, v.reconciliation and v.reconciliation.equal) for v in summary.views}
        assert outcomes == {name: ("done", 1 if name == "user_recent" else 30) for name in store.view_names()}
        assert store.read_recent(["u"]) == recent
        after = store.read_features(ids)
        assert all(same(after[id], features[id]) for id in ids)
        assert all(same(row, embeddings[id]) for id, row in store.read_embeddings("m1", ids).items())
        store.feast.provider.online_store.teardown(store.feast.config, views, [])


# What is PostgreSQL's own.


@pytest.fixture
def on_postgres(settings: Settings, tmp_path: Path) -> Iterator[Online]:
    online = Online(settings("postgres") | {"lock_timeout_s": 0.2}, tmp_path)
    online.make(TITLES)
    yield online
    online.store.disconnect()


def test_a_session_that_the_server_ended_is_opened_again(on_postgres: Online, postgres: PostgresServer) -> None:
    import psycopg

    on_postgres.put("before", 1)
    with psycopg.connect(postgres.conninfo) as other:
        ended = other.execute(
            "select pg_terminate_backend(pid, 10000) from pg_stat_activity "
            "where backend_type = 'client backend' and pid <> pg_backend_pid()"
        ).fetchall()
    assert (True,) in ended
    on_postgres.put("after", 2)
    assert on_postgres.get("a") == [("after", 2)]


def test_a_writer_waits_for_a_locked_row_and_then_names_it(on_postgres: Online, postgres: PostgresServer) -> None:
    import psycopg

    on_postgres.put("x", 1)
    with psycopg.connect(postgres.conninfo) as other:
        other.execute(f"select 1 from {on_postgres.config.project}_titles for update")
        with pytest.raises(StoreBusyError, match=r"Another writer held PostgreSQL rows for 0\.2 s"):
            on_postgres.put("y", 2)
        assert on_postgres.get("a") == [("x", 1)], "readers do not wait"
    on_postgres.put("y", 2)
    assert on_postgres.get("a") == [("y", 2)]


def test_an_unreachable_server_is_an_error_and_is_used_again_after_its_return(
    on_postgres: Online, postgres: PostgresServer
) -> None:
    on_postgres.put("x", 1)
    postgres.stop()
    try:
        with pytest.raises(StoreStateError, match="PostgreSQL cannot be used"):
            on_postgres.put("y", 2)
    finally:
        postgres.start()
    on_postgres.put("z", 3)
    assert on_postgres.get("a") == [("z", 3)]


def test_names_that_postgresql_would_cut_off_are_refused(on_postgres: Online) -> None:
    """With names cut off, two model versions would share a table."""
    with pytest.raises(InvalidFeatureError, match="longer than the 63 bytes"):
        on_postgres.make(view("product_embedding_" + "x" * 60, *GUARD))


def test_a_table_of_feasts_own_store_is_refused(on_postgres: Online, postgres: PostgresServer) -> None:
    import psycopg

    with psycopg.connect(postgres.conninfo) as other:
        other.execute(f"create table {on_postgres.config.project}_prices (entity_key bytea, feature_name text)")
    with pytest.raises(StoreStateError, match="another kind of online store"):
        on_postgres.make(PRICES)


def test_the_password_is_in_no_text(settings: Settings, tmp_path: Path) -> None:
    online = Online(settings("postgres") | {"conninfo": "host=/nowhere password=hunter2 user=pg"}, tmp_path)
    with pytest.raises(StoreStateError) as caught:
        online.make(TITLES)
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in repr(online.config.online_store)


# What is Redis' own.


@pytest.fixture
def on_redis(settings: Settings, tmp_path: Path) -> Iterator[Online]:
    online = Online(settings("redis"), tmp_path)
    online.make(TITLES, PRICES)
    yield online
    online.store.disconnect()


def test_feasts_stock_redis_reader_reads_what_was_written(
    on_redis: Online, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    import redis as library
    from feast.infra.online_stores.redis import RedisOnlineStore

    on_redis.put("live", 3, "a", time=EARLY)
    on_redis.put("live", 1, "b")
    on_redis.put("gone", 2, "b", deleted=True)
    stock = RedisOnlineStore()
    config = RepoConfig(
        project=on_redis.config.project,
        registry="/nowhere/registry.pb",
        online_store={"type": "redis"},
        entity_key_serialization_version=3,
    )
    # The stock reader takes no Unix socket.
    monkeypatch.setattr("feast.infra.online_stores.redis.Redis", lambda **_: library.Redis.from_url(redis.url))
    (live, deleted, unknown) = stock.online_read(config, TITLES, [key("a"), key("b"), key("c")])
    assert live[1] is not None
    assert (live[0], live[1]["title"].string_val, live[1]["version"].int64_val) == (
        EARLY,
        "live",
        3,
    )
    for _, values in (deleted, unknown):
        assert not values or values["title"].WhichOneof("val") is None


def test_an_unreachable_redis_is_an_error_and_is_used_again_after_its_return(
    on_redis: Online, redis: RedisServer
) -> None:
    on_redis.put("x", 1)
    redis.stop()
    try:
        with pytest.raises(StoreStateError, match="Redis cannot be used"):
            on_redis.put("y", 2)
    finally:
        redis.start()
    on_redis.put("z", 3)
    assert on_redis.get("a") == [("z", 3)]

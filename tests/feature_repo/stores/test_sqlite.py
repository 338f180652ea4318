"""The guarded store through Feast's public interface does not have the faults of Feast's own store."""

from __future__ import annotations

import os
import random
import sqlite3
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import FloatList, Value
from feast.types import Array, Bool, Float32, Int64, String

from feature_repo.errors import InvalidFeatureError, StoreBusyError, StoreStateError
from feature_repo.online_row import OnlineRow, payload_columns
from feature_repo.stores.base import PAGE_ROWS
from feature_repo.stores.sqlite import GuardedSqliteOnlineStore
from feature_repo.values import decode_key, encode_key

EARLY = datetime(2026, 1, 1, 0, 0, 0, 100, tzinfo=UTC)
TYPE = "feature_repo.stores.sqlite.GuardedSqliteOnlineStore"


def view(name: str, *features: Field) -> FeatureView:
    product = Entity(name="product", join_keys=["product_id"], value_type=ValueType.STRING)
    return FeatureView(
        name=name,
        entities=[product],
        schema=[Field(name="product_id", dtype=String), *features],
        source=FileSource(name=name, path="/nowhere/*.parquet", timestamp_field="event_timestamp"),
    )


GUARD = (Field(name="version", dtype=Int64), Field(name="deleted", dtype=Bool))
TITLES = view("titles", Field(name="title", dtype=String), *GUARD)
TIMED = view("timed", Field(name="title", dtype=String))  # orders by event time
POINTS = view(
    "points",
    Field(name="point", dtype=Array(Float32), vector_index=True, vector_length=2, vector_search_metric="L2"),
    Field(name="label", dtype=String),
    *GUARD,
)


class Online:
    """The store, as Feast calls it."""

    def __init__(self, folder: Path, busy_timeout_s: float = 30.0) -> None:
        self.config = RepoConfig(
            project="test",
            registry=str(folder / "registry.pb"),
            online_store={"type": TYPE, "path": str(folder / "online.db"), "busy_timeout_s": busy_timeout_s},
            entity_key_serialization_version=3,
        )
        self.store = GuardedSqliteOnlineStore()

    def make(self, *views: FeatureView) -> None:
        self.store.update(self.config, [], views, [], [], partial=True)

    def put(
        self, title: str | None, version: int, id: str = "a", deleted: bool = False, time: datetime = EARLY
    ) -> None:
        values = {"title": Value(string_val=title or ""), "version": Value(int64_val=version)}
        self.write(TITLES, [(key(id), values | {"deleted": Value(bool_val=deleted)}, time, None)])

    def write(self, table: FeatureView, data: Sequence[Any]) -> None:
        self.store.online_write_batch(self.config, table, data, None)

    def get(self, *ids: str, table: FeatureView = TITLES) -> list[Any]:
        rows = self.store.online_read(self.config, table, [key(id) for id in ids])
        return [values and (values["title"].string_val, values["version"].int64_val) for _, values in rows]


def key(id: str) -> EntityKey:
    return EntityKey(join_keys=["product_id"], entity_values=[Value(string_val=id)])


@pytest.fixture
def online(tmp_path: Path) -> Any:
    online = Online(tmp_path)
    online.make(TITLES, TIMED, POINTS)
    yield online
    online.store.disconnect()


def test_a_commit_outlives_a_loss_of_power(online: Online) -> None:
    """The caller commits its Kafka offsets next, so a lost row would never be written again."""
    assert online.store.connection(online.config).execute("pragma synchronous").fetchone() == (2,), "full"


def test_an_older_version_never_overwrites_a_newer_one(online: Online) -> None:
    for version in (3, 1, 7, 2, 6):
        online.put(f"v{version}", version)
    assert online.get("a") == [("v7", 7)]


def test_versions_decide_and_event_times_do_not(online: Online) -> None:
    online.put("new", 2, time=EARLY)
    online.put("old", 1, time=EARLY + timedelta(days=1))
    assert online.get("a") == [("new", 2)]


def test_the_newest_row_of_a_batch_wins_in_any_order(online: Online) -> None:
    rows = [
        (key("a"), {"title": Value(string_val=f"v{v}"), "version": Value(int64_val=v), "deleted": Value()}, EARLY, None)
        for v in (1, 5, 3)
    ]
    online.write(TITLES, rows)
    assert online.get("a") == [("v5", 5)]


def test_an_equal_version_is_written_again(online: Online) -> None:
    online.put("first", 1)
    online.put("second", 1)
    assert online.get("a") == [("second", 1)]


def test_a_view_without_versions_is_ordered_by_microseconds(online: Online) -> None:
    for microsecond in (200, 900, 300):
        time = EARLY.replace(microsecond=microsecond)
        online.write(TIMED, [(key("a"), {"title": Value(string_val=f"{microsecond}")}, time, None)])
    ((time, values),) = online.store.online_read(online.config, TIMED, [key("a")])
    assert values["title"].string_val == "900"
    assert time == EARLY.replace(microsecond=900)


def test_a_deleted_product_is_absent_and_an_older_upsert_cannot_pass(online: Online) -> None:
    online.put("live", 1)
    online.put(None, 3, deleted=True)
    assert online.get("a") == [None]
    online.put("late", 2)
    assert online.get("a") == [None]
    online.put("back", 4)
    assert online.get("a") == [("back", 4)]


def test_a_tombstone_keeps_its_version_and_no_features(online: Online) -> None:
    online.put("secret", 1)
    online.put("secret", 3, deleted=True)
    (result,) = online.store.read(online.config, [(TITLES, ["title"])], [encode_key("a")])
    row = result[encode_key("a")]
    assert (row.version, row.deleted, list(row.values)) == (3, True, [None])


def test_rows_come_in_the_order_of_the_requested_ids_with_unknown_and_repeated_ones(online: Online) -> None:
    for id in ("b", "a", "c"):
        online.put(id.upper(), 1, id)
    assert online.get("c", "nope", "a", "c") == [("C", 1), None, ("A", 1), ("C", 1)]
    assert online.get() == []


def test_only_requested_features_are_read(online: Online) -> None:
    online.put("x", 1)
    ((_, values),) = online.store.online_read(online.config, TITLES, [key("a")], ["version"])
    assert set(values) == {"version"}


def test_more_ids_than_one_statement_takes_are_read(online: Online) -> None:
    online.put("x", 1, "p39999")
    # SQLite's default; some builds allow more.
    online.store.connection(online.config).setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 32_766)
    assert online.get(*(f"p{i}" for i in range(40_000)))[-1] == ("x", 1)


def test_a_nul_byte_is_stored_and_the_store_works_on(online: Online) -> None:
    online.put("before\0after", 1)
    online.put("next", 1, "b")
    assert online.get("a", "b") == [("before\0after", 1), ("next", 1)]


def test_a_row_without_all_features_is_refused_and_nothing_of_its_batch_is_written(online: Online) -> None:
    whole = {"title": Value(string_val="x"), "version": Value(int64_val=1), "deleted": Value(bool_val=False)}
    part = {"title": Value(string_val="y")}
    with pytest.raises(InvalidFeatureError, match=r"lacks \['deleted', 'version'\]"):
        online.write(TITLES, [(key("a"), whole, EARLY, None), (key("b"), part, EARLY, None)])
    assert online.get("a", "b") == [None, None]


def test_a_failing_batch_leaves_no_transaction_open(online: Online) -> None:
    poison: Any = object()
    rows = [OnlineRow(encode_key("b"), 1, False, 0, [b""]), OnlineRow(encode_key("c"), 1, False, 0, [poison])]
    with pytest.raises(sqlite3.Error, match="binding"):
        online.store.write(online.config, [(TITLES, rows)])
    assert online.get("b") == [None]
    online.put("works", 1)
    assert online.get("a") == [("works", 1)]


def test_a_writer_waits_for_the_lock_of_another_and_then_names_it(tmp_path: Path) -> None:
    online = Online(tmp_path, busy_timeout_s=0.1)
    online.make(TITLES)
    other = sqlite3.connect(tmp_path / "online.db", isolation_level=None)
    other.execute("begin immediate")
    with pytest.raises(StoreBusyError, match=r"online\.db was locked by another process for 0\.1 s"):
        online.put("x", 1)
    other.execute("rollback")
    other.close()
    online.put("x", 1)
    assert online.get("a") == [("x", 1)]
    online.store.disconnect()


def test_a_writer_does_not_block_readers(online: Online, tmp_path: Path) -> None:
    online.put("x", 1)
    other = sqlite3.connect(tmp_path / "online.db", isolation_level=None)
    other.execute("begin immediate")
    assert online.get("a") == [("x", 1)]
    other.close()


def test_a_view_that_was_never_applied_is_an_error_that_says_so(online: Online) -> None:
    with pytest.raises(StoreStateError, match="feast apply"):
        online.store.online_read(online.config, view("unknown", *GUARD), [key("a")])


def test_a_file_that_is_no_database_is_an_error_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "online.db").write_bytes(b"this is not a database, but it is long enough to be read as one" * 99)
    with pytest.raises(StoreStateError, match="not a database"):
        Online(tmp_path).make(TITLES)


def test_a_table_of_feasts_own_store_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "online.db") as other:
        other.execute("create table test_titles (entity_key blob, feature_name text, value blob)")
    other.close()
    online = Online(tmp_path)
    with pytest.raises(StoreStateError, match="another kind of online store"):
        online.make(TITLES)
    online.store.disconnect()


def test_a_path_with_a_variable_that_is_not_set_is_refused() -> None:
    with pytest.raises(ValueError, match="environment variable that is not set"):
        RepoConfig(project="test", registry="r.pb", online_store={"type": TYPE, "path": "${NOWHERE}/x"})


def test_a_feature_added_later_is_null_in_old_rows(online: Online) -> None:
    online.put("x", 1)
    wider = view("titles", Field(name="title", dtype=String), Field(name="size", dtype=String), *GUARD)
    online.make(wider)
    ((_, values),) = online.store.online_read(online.config, wider, [key("a")])
    assert values["title"].string_val == "x"
    assert values["size"].WhichOneof("val") is None
    assert payload_columns(wider) == ("title", "size")


def test_views_that_are_dropped_lose_their_table(online: Online) -> None:
    online.store.update(online.config, [TITLES], [], [], [], partial=False)
    assert online.store.tables(online.config, "") == ["points", "timed"]


def test_several_views_are_written_all_or_none(online: Online) -> None:
    row = OnlineRow(encode_key("a"), 1, False, 0, [b""])
    with pytest.raises(StoreStateError):
        online.store.write(online.config, [(TITLES, [row]), (view("unknown", *GUARD), [row])])
    assert online.get("a") == [None]


def test_each_thread_has_its_own_connection_and_all_are_closed(online: Online) -> None:
    errors: list[BaseException] = []

    def work(n: int) -> None:
        try:
            for version in range(20):
                online.put(f"{n}", version, f"p{n}")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert online.get(*(f"p{n}" for n in range(4))) == [(f"{n}", 19) for n in range(4)]
    online.store.disconnect()
    assert online.get("p0") == [("0", 19)]  # opens anew


def test_threads_that_race_for_one_product_leave_the_newest_version(online: Online) -> None:
    versions = list(range(1, 201))
    random.Random(7).shuffle(versions)
    threads = [
        threading.Thread(target=lambda part: [online.put(f"v{v}", v) for v in part], args=(versions[i::4],))
        for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert online.get("a") == [("v200", 200)]


def test_a_forked_child_uses_and_closes_only_its_own_connection(online: Online) -> None:
    online.put("parent", 1)
    parents = online.store.connection(online.config)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            online.put("child", 2, "b")
            assert online.store.connection(online.config) is not parents
            online.store.disconnect()
            parents.execute("select 1")  # not closed
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    online.put("parent again", 3)
    assert online.get("a", "b") == [("parent again", 3), ("child", 2)]


def points(online: Online, **at: tuple[float, float]) -> None:
    online.write(
        POINTS,
        [
            (
                key(id),
                {
                    "point": Value(float_list_val=FloatList(val=at[id])),
                    "label": Value(string_val=f"label {id}"),
                    "version": Value(int64_val=1),
                    "deleted": Value(bool_val=False),
                },
                EARLY,
                None,
            )
            for id in at
        ],
    )


def search(online: Online, query: Sequence[float], top_k: int, metric: str = "L2", **more: Any) -> list[Any]:
    documents = online.store.retrieve_online_documents_v2(
        online.config, POINTS, ["label"], query, top_k, distance_metric=metric, **more
    )
    return [(k.entity_values[0].string_val, v["label"].string_val, v["distance"].float_val) for _, k, v in documents]


def test_vector_search_is_exact_and_ordered_by_id_as_feast_zips_it(online: Online) -> None:
    points(online, z=(0.0, 0.0), a=(3.0, 4.0), m=(0.0, 1.0), far=(9.0, 9.0))
    assert search(online, [0.0, 0.0], 3) == [
        ("a", "label a", 5.0),
        ("m", "label m", 1.0),
        ("z", "label z", 0.0),
    ]


@pytest.mark.parametrize(("metric", "nearest"), [("L2", "short"), ("cosine", "long"), ("inner_product", "long")])
def test_vector_search_supports_three_metrics(online: Online, metric: str, nearest: str) -> None:
    points(online, short=(1.0, 0.5), long=(9.0, 0.0))
    assert [id for id, _, _ in search(online, [1.0, 0.0], 1, metric)] == [nearest]


def test_vector_search_finds_no_deleted_product(online: Online) -> None:
    points(online, a=(0.0, 0.0), b=(1.0, 1.0))
    gone = {name: Value() for name in ("point", "label")} | {
        "version": Value(int64_val=2),
        "deleted": Value(bool_val=True),
    }
    online.write(POINTS, [(key("a"), gone, EARLY, None)])
    assert [id for id, _, _ in search(online, [0.0, 0.0], 5)] == ["b"]


def test_vector_search_reads_more_rows_than_one_page(online: Online) -> None:
    last = PAGE_ROWS + 1
    points(online, **{f"p{i:05}": (float(i), 0.0) for i in range(last + 1)})
    assert [id for id, _, _ in search(online, [float(last), 0.0], 2)] == [f"p{last - 1:05}", f"p{last:05}"]


@pytest.mark.parametrize(
    ("query", "more", "message"),
    [
        ([1.0], {}, "must be 2 finite numbers"),
        ([1.0, float("nan")], {}, "must be 2 finite numbers"),
        ([1.0, 1.0], {"metric": "manhattan"}, "Unknown distance 'manhattan'"),
        ([1.0, 1.0], {"query_string": "red shoes"}, "by vector alone"),
    ],
)
def test_bad_searches_are_refused(online: Online, query: list[float], more: dict[str, Any], message: str) -> None:
    points(online, a=(0.0, 0.0))
    with pytest.raises(InvalidFeatureError, match=message):
        search(online, query, 1, **more)


def test_pages_are_in_key_order_and_hold_live_rows_only(online: Online) -> None:
    for id in ("c", "a", "b", "d"):
        online.put(id, 1, id)
    online.put(None, 2, "b", deleted=True)
    first = online.store.page(online.config, TITLES, [], limit=2)
    rest = online.store.page(online.config, TITLES, [], after=first[-1].key, limit=2)
    assert [decode_key(row.key) for row in [*first, *rest]] == ["a", "c", "d"]


def test_feast_loads_the_store_by_its_name(online: Online) -> None:
    assert isinstance(FeatureStore(config=online.config).provider.online_store, GuardedSqliteOnlineStore)

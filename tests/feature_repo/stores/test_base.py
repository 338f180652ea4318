"""The methods of every guarded store that Feast calls, over a store in memory."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from feast import Entity, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import FloatList, Value
from feast.types import Array, Bool, Float32, Int64, String
from pydantic import SecretStr

from feature_repo.errors import InvalidFeatureError
from feature_repo.online_row import OnlineRow, payload_columns
from feature_repo.stores.base import PAGE_ROWS, GuardedOnlineStore, ViewColumns, ViewRows, check_filled_in, key_of
from feature_repo.values import encode_key

NOON = datetime(2026, 1, 1, 12, 0, 0, 123, tzinfo=UTC)
CONFIG = RepoConfig(
    project="test",
    registry="/nowhere/registry.pb",
    online_store={"type": "sqlite"},
    entity_key_serialization_version=3,
)


def view(name: str, *features: Field) -> FeatureView:
    product = Entity(name="product", join_keys=["product_id"], value_type=ValueType.STRING)
    source = FileSource(name=name, path="/nowhere/*.parquet", timestamp_field="event_timestamp")
    return FeatureView(
        name=name, entities=[product], schema=[Field(name="product_id", dtype=String), *features], source=source
    )


POINT = Field(name="point", dtype=Array(Float32), vector_index=True, vector_length=2, vector_search_metric="cosine")
POINTS = view("points", POINT, Field(name="version", dtype=Int64), Field(name="deleted", dtype=Bool))
TIMED = view("timed", Field(name="title", dtype=String))


class StoreInMemory(GuardedOnlineStore):
    """Rows by view and key, without a guard."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[bytes, OnlineRow]] = {}
        self.dropped: list[str] = []
        self.connected = True

    def write(
        self,
        config: RepoConfig,
        batches: Sequence[ViewRows],
        advance: Sequence[FeatureView] = (),
        *,
        equal: bool = True,
        repair: bool = False,
    ) -> list[set[bytes]]:
        for table, rows in batches:
            self.rows.setdefault(table.name, {}).update({row.key: row for row in rows})
        return [set() for _ in batches]

    def read(
        self,
        config: RepoConfig,
        columns: Sequence[ViewColumns],
        keys: Collection[bytes],
        *,
        own_versions: bool = False,
    ) -> list[dict[bytes, OnlineRow]]:
        return [
            {key: _with_columns(row, table, names) for key, row in self.rows.get(table.name, {}).items() if key in keys}
            for table, names in columns
        ]

    def page(
        self, config: RepoConfig, view: FeatureView, columns: Sequence[str], after: bytes = b"", limit: int = PAGE_ROWS
    ) -> list[OnlineRow]:
        rows = sorted(self.rows.get(view.name, {}).items())
        live = [row for key, row in rows if key > after and not row.deleted]
        return [_with_columns(row, view, columns) for row in live[:limit]]

    def tables(self, config: RepoConfig, prefix: str) -> list[str]:
        return sorted(name for name in self.rows if name.startswith(prefix))

    def count(self, config: RepoConfig, view: FeatureView) -> int:
        return len(self.rows.get(view.name, {}))

    def identity(self, config: RepoConfig, view: FeatureView) -> str:
        return view.name

    def disconnect(self) -> None:
        self.connected = False

    def update(self, config: RepoConfig, tables_to_delete: Sequence[FeatureView], *rest: Any, **options: Any) -> None:
        self.dropped += [table.name for table in tables_to_delete]


def _with_columns(row: OnlineRow, table: FeatureView, names: Sequence[str]) -> OnlineRow:
    values = dict(zip(payload_columns(table), row.values, strict=True))
    return row._replace(values=[values[name] for name in names])


def key(id: str) -> EntityKey:
    return EntityKey(join_keys=["product_id"], entity_values=[Value(string_val=id)])


def point(*numbers: float, version: int = 1, deleted: bool = False) -> dict[str, Value]:
    return {
        "point": Value(float_list_val=FloatList(val=numbers)),
        "version": Value(int64_val=version),
        "deleted": Value(bool_val=deleted),
    }


@pytest.fixture
def store() -> StoreInMemory:
    return StoreInMemory()


def write(store: StoreInMemory, table: FeatureView, id: str, values: dict[str, Value]) -> None:
    store.online_write_batch(CONFIG, table, [(key(id), values, NOON, None)], None)


def test_the_version_of_a_row_is_its_feature_and_without_one_its_event_time(store: StoreInMemory) -> None:
    write(store, POINTS, "a", point(1, 0, version=7))
    write(store, TIMED, "a", {"title": Value(string_val="shoe")})
    (row,), (timed,) = (store.rows[name].values() for name in ("points", "timed"))
    assert (row.version, row.deleted, row.key) == (7, False, encode_key("a", "product_id"))
    assert timed.version == timed.event_us == row.event_us == int(NOON.timestamp()) * 1_000_000 + 123


def test_a_tombstone_has_no_features_and_may_lack_a_vector(store: StoreInMemory) -> None:
    write(store, POINTS, "a", point(version=3, deleted=True))
    (row,) = store.rows["points"].values()
    assert (row.deleted, row.version, row.values) == (True, 3, [None])
    assert store.online_read(CONFIG, POINTS, [key("a")]) == [(None, None)]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"point": point(1, 0)["point"]}, r"A row for view points lacks \['deleted', 'version'\]"),
        (point(1, 0) | {"version": Value()}, "has no version: give an int of at least 0"),
        (point(1, 0, version=-1), "has no version"),
        (point(1, 0) | {"version": Value(string_val="1")}, "has no version"),
        (point(1, 0, 0), "has a point that cannot be searched: give 2 finite numbers"),
        (point(0, 0), "cannot be searched"),
        (point(float("nan"), 1), "cannot be searched"),
        (point(float("inf"), 1), "cannot be searched"),
    ],
)
def test_a_row_that_feast_would_let_pass_is_refused(
    store: StoreInMemory, values: dict[str, Value], message: str
) -> None:
    with pytest.raises(InvalidFeatureError, match=message):
        write(store, POINTS, "a", values)
    assert store.rows == {}


def test_one_refused_row_refuses_its_whole_batch(store: StoreInMemory) -> None:
    batch = [(key("a"), point(1, 0), NOON, None), (key("b"), point(0, 0), NOON, None)]
    with pytest.raises(InvalidFeatureError):
        store.online_write_batch(CONFIG, POINTS, batch, None)
    assert store.rows == {}


def test_progress_is_the_number_of_rows(store: StoreInMemory) -> None:
    written: list[int] = []
    batch = [(key(id), point(1, 0), NOON, None) for id in "abc"]
    store.online_write_batch(CONFIG, POINTS, batch, written.append)
    assert written == [3]


def test_rows_are_read_in_the_order_of_their_keys_with_the_requested_features(store: StoreInMemory) -> None:
    write(store, POINTS, "a", point(1, 0, version=1))
    write(store, POINTS, "b", point(0, 1, version=2))
    rows = store.online_read(CONFIG, POINTS, [key("b"), key("none"), key("a")], ["version", "deleted"])
    assert rows == [
        (NOON, {"version": Value(int64_val=2), "deleted": Value(bool_val=False)}),
        (None, None),
        (NOON, {"version": Value(int64_val=1), "deleted": Value(bool_val=False)}),
    ]
    ((_, all_features),) = store.online_read(CONFIG, POINTS, [key("a")])
    assert all_features == point(1, 0, version=1)


def test_search_results_are_sorted_by_id_and_have_their_distance(store: StoreInMemory) -> None:
    for id, values in (("far", point(-1, 0)), ("near", point(1, 0.1)), ("exact", point(1, 0))):
        write(store, POINTS, id, values)
    documents = store.retrieve_online_documents_v2(CONFIG, POINTS, ["version"], [1, 0], 2)
    ids = [entity_key.entity_values[0].string_val for _, entity_key, _ in documents if entity_key is not None]
    assert ids == ["exact", "near"]
    distances = [features["distance"].float_val for _, _, features in documents if features is not None]
    assert distances[0] == pytest.approx(0, abs=1e-6)
    assert 0 < distances[1] < 0.01
    write(store, POINTS, "late", point(1, 0))
    assert len(store.retrieve_online_documents_v2(CONFIG, POINTS, [], [1, 0], 9)) == 4


@pytest.mark.parametrize("request_", [{"embedding": None}, {"query_string": "shoe"}, {"filters": "a = 1"}])
def test_a_search_is_by_vector_alone(store: StoreInMemory, request_: dict[str, Any]) -> None:
    arguments = {"embedding": [1.0, 0.0], **request_}
    with pytest.raises(InvalidFeatureError, match="searches by vector alone"):
        store.retrieve_online_documents_v2(CONFIG, POINTS, [], top_k=1, **arguments)


def test_a_teardown_drops_the_views_and_disconnects(store: StoreInMemory) -> None:
    store.teardown(CONFIG, [POINTS, TIMED], [])
    assert (store.dropped, store.connected) == (["points", "timed"], False)


def test_keys_have_the_format_of_this_repository() -> None:
    assert key_of(CONFIG, key("a")) == encode_key("a", "product_id")


def test_a_setting_that_names_a_missing_environment_variable_is_refused() -> None:
    secret = SecretStr("redis://:hunter2@host")
    assert check_filled_in("url", secret) is secret
    with pytest.raises(ValueError, match=r"online_store\.url names an environment variable that is not set"):
        check_filled_in("url", SecretStr("${REDIS_URL}"))

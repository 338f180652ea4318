"""A SQLite online store for Feast in which the newest version of a product always wins.

Feast's own SQLite store overwrites newer values with late ones, keeps times in whole seconds, writes one row per
feature, and cannot delete a product. This one is named in `feature_store.yaml` and is used by Feast's own readers and
writers (`get_online_features`, `push`, `materialize`, `retrieve_online_documents_v2`); it keeps one row per product and
view, so that a single statement both compares the versions and writes all features:

    insert ... on conflict (entity_key) do update set ... where excluded.version >= version

* The order is the view's `version` feature, or the event time in microseconds where a view has none. An equal version
  is written again: the same message delivered twice changes nothing, and a correction under the same version passes.
* A row whose `deleted` feature is true is a tombstone: it keeps its version, so that an older upsert cannot pass, its
  features are emptied, and Feast's readers see nothing.
* A view that only follows another in version (`write`'s `advance`) has that in a small table beside its own: to rewrite
  rows full of vectors for a new price would cost more than all the rest. Whoever reads or writes minds both.
* WAL, one connection per thread, and none shared with a forked child. A commit is on the disk when it returns: a loss
  of power takes nothing with it.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from feast.infra.key_encoding_utils import deserialize_entity_key, serialize_entity_key
from feast.infra.online_stores.helpers import compute_table_id
from feast.infra.online_stores.online_store import OnlineStore
from feast.infra.online_stores.vector_store import VectorStoreConfig
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import FeastConfigBaseModel
from pydantic import StrictStr, field_validator

from feature_repo.definitions import DELETED, VERSION
from feature_repo.errors import InvalidFeatureError, StoreBusyError, StoreStateError
from feature_repo.values import decode_vector

# SQLite's default limit of bound values in one statement (SQLITE_MAX_VARIABLE_NUMBER since 3.32).
_MAX_VARIABLES: Final = 32_766
# Rows of one insert: longer statements are parsed and planned anew for no gain.
_ROWS_PER_INSERT: Final = 128
_SCAN_PAGE: Final = 4096
_GUARD_COLUMNS: Final = ("entity_key", "event_us", VERSION, DELETED)
_FOLLOWED: Final = "followed_"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


class OnlineRow(NamedTuple):
    """One product in one view. `values` are serialised `Value`s in the order of the view's `payload_columns`."""

    key: bytes
    version: int
    deleted: bool
    event_us: int  # microseconds since the Unix epoch, UTC
    values: Sequence[bytes | None]


class GuardedSqliteOnlineStoreConfig(FeastConfigBaseModel, VectorStoreConfig):
    """Settings below `online_store:` in `feature_store.yaml`."""

    type: Literal["feature_repo.online.GuardedSqliteOnlineStore"] = "feature_repo.online.GuardedSqliteOnlineStore"
    path: StrictStr
    """File of the database; relative to `feature_store.yaml` if not absolute."""
    busy_timeout_s: float = 30.0
    """How long to wait for another process's write before giving up."""

    @field_validator("path")
    @classmethod
    def _path_is_filled_in(cls, path: str) -> str:
        if "$" in path:
            raise ValueError(f"{path!r} names an environment variable that is not set: set it to a folder.")
        return path


class GuardedSqliteOnlineStore(OnlineStore):
    """Feast online store over SQLite, ordered by version; see the module's text. Safe to share between threads."""

    def __init__(self) -> None:
        self._local = threading.local()
        self._open: weakref.WeakSet[_Connection] = weakref.WeakSet()
        self._tables: dict[tuple[str, tuple[str, ...]], _Table] = {}
        # SQLite lets a writer that finds another sleep for up to 0.1 s at a time; our own threads need not.
        self._writing = threading.Lock()
        self._pid = os.getpid()

    # What Feast calls.

    def update(
        self,
        config: Any,
        tables_to_delete: Sequence[Any],
        tables_to_keep: Sequence[Any],
        entities_to_delete: Sequence[Any],
        entities_to_keep: Sequence[Any],
        partial: bool,
    ) -> None:
        """Make, widen or drop the tables of views (`feast apply`)."""
        with self._transaction(config) as connection:
            for view in tables_to_keep:
                self._make_table(connection, _Table.of(config, view))
            for view in tables_to_delete:
                table = _Table.of(config, view)
                for name in (table.name, table.followed):
                    connection.execute(f"drop table if exists {name}")

    def plan(self, config: Any, desired_registry_proto: Any) -> list[Any]:
        """Nothing: `update` makes the tables; Feast's own infra objects would make tables of another shape."""
        return []

    def teardown(self, config: Any, tables: Sequence[Any], entities: Sequence[Any]) -> None:
        """Delete the database (`feast teardown`)."""
        self.disconnect()
        path = _path(config)
        for file in (path, *(path.with_name(path.name + suffix) for suffix in ("-wal", "-shm"))):
            file.unlink(missing_ok=True)

    def online_write_batch(
        self,
        config: Any,
        table: Any,
        data: Sequence[tuple[Any, Mapping[str, Any], datetime, datetime | None]],
        progress: Callable[[int], Any] | None,
    ) -> None:
        columns = payload_columns(table)
        names = {feature.name for feature in table.features}
        rows = []
        for entity_key, values, event_time, _ in data:
            if missing := names - values.keys():
                raise InvalidFeatureError(
                    f"A row for view {table.name} lacks {sorted(missing)}: give every feature, null where unknown."
                )
            event_us = microseconds(event_time)
            deleted = DELETED in names and values[DELETED].bool_val
            rows.append(
                OnlineRow(
                    key=_key(config, entity_key),
                    version=values[VERSION].int64_val if VERSION in names else event_us,
                    deleted=deleted,
                    event_us=event_us,
                    values=[None if deleted else values[name].SerializeToString() for name in columns],
                )
            )
        self.write(config, [(table, rows)])
        if progress:
            progress(len(rows))

    def online_read(
        self,
        config: Any,
        table: Any,
        entity_keys: Sequence[Any],
        requested_features: Sequence[str] | None = None,
    ) -> list[tuple[datetime | None, dict[str, Any] | None]]:
        names = list(requested_features or (feature.name for feature in table.features))
        columns = [name for name in payload_columns(table) if name in names]
        keys = [_key(config, entity_key) for entity_key in entity_keys]
        (found,) = self.read(config, [(table, columns)], keys)
        return [_as_feast_row(found.get(key), names, columns) for key in keys]

    def retrieve_online_documents_v2(
        self,
        config: Any,
        table: Any,
        requested_features: Sequence[str] | None,
        embedding: Sequence[float] | None,
        top_k: int,
        distance_metric: str | None = None,
        query_string: str | None = None,
        filters: Any = None,
        include_feature_view_version_metadata: bool = False,
    ) -> list[tuple[datetime | None, Any, dict[str, Any] | None]]:
        """The `top_k` live products nearest to `embedding`, exactly, by a scan of the view.

        Rows are ordered by product id, not by distance: `FeatureStore` 0.67 zips them with the *sorted* entity keys,
        so that rows in any other order come back under wrong ids. Sort by the `distance` that comes with each.
        """
        if embedding is None or query_string is not None or filters is not None:
            raise InvalidFeatureError("This store searches by vector alone: give `query`, no text and no filters.")
        field = next((f for f in table.features if f.vector_index), None)
        if field is None:
            raise InvalidFeatureError(f"View {table.name} has no vector to search: mark one vector_index=True.")
        query = np.asarray(embedding, dtype=np.float32)
        if query.shape != (field.vector_length,) or not np.isfinite(query).all():
            raise InvalidFeatureError(
                f"The query for view {table.name} must be {field.vector_length} finite numbers, not {query.shape}."
            )
        nearest = self._nearest(config, table, field.name, query, top_k, distance_metric or "cosine")
        names = list(requested_features or ())
        keys = [_feast_key(config, key) for key, _ in nearest]
        rows = self.online_read(config, table, keys, names)
        documents: list[tuple[datetime | None, Any, dict[str, Any] | None]] = []
        for (_, distance), key, (event_time, values) in zip(nearest, keys, rows, strict=True):
            if values is not None:  # else deleted since the scan
                documents.append((event_time, key, {**values, "distance": Value(float_val=distance)}))
        documents.sort(key=lambda document: document[1].entity_values[0].string_val)
        return documents

    async def close(self) -> None:
        self.disconnect()

    # What `ProductFeatureStore` calls, beside the above.

    def write(
        self,
        config: Any,
        batches: Sequence[tuple[Any, Sequence[OnlineRow]]],
        advance: Sequence[Any] = (),
    ) -> list[set[bytes]]:
        """Write rows of several views in one transaction: all of them or, on any error, none.

        Rows of one batch that share a key are taken in their order. For every accepted key, the version and event
        time of its row in the views `advance` follow, tombstone or not, with their features untouched.

        Returns:
            for each batch the keys whose rows were refused, because the store holds a newer version.
        """
        stale = []
        self._after_fork()
        with self._writing, self._transaction(config) as connection:
            for view, rows in batches:
                table = self._table(config, view)
                written = table.insert(connection, rows)
                stale.append({row.key for row in rows} - written)
                moved = [(r.version, r.event_us, r.key, r.key) for r in rows if r.key in written]
                for other in advance:
                    connection.executemany(self._table(config, other).advance_sql, moved)
        return stale

    def read(
        self, config: Any, wanted: Sequence[tuple[Any, Sequence[str]]], keys: Collection[bytes]
    ) -> list[dict[bytes, OnlineRow]]:
        """Rows of `keys`, tombstones included, in several views as of one moment; of each view the given columns.

        One statement per view for up to 32,766 keys.
        """
        keys = list(dict.fromkeys(keys))
        found: list[dict[bytes, OnlineRow]] = []
        with self._snapshot(config) as connection:
            for view, columns in wanted:
                table = self._table(config, view)
                rows: dict[bytes, OnlineRow] = {}
                for start in range(0, len(keys), _MAX_VARIABLES):
                    some = keys[start : start + _MAX_VARIABLES]
                    where = f"kept.entity_key in ({','.join('?' * len(some))})"
                    rows.update((row.key, row) for row in table.select(connection, columns, where, some))
                found.append(rows)
        return found

    def page(
        self, config: Any, view: Any, columns: Sequence[str], after: bytes = b"", limit: int = _SCAN_PAGE
    ) -> list[OnlineRow]:
        """The next `limit` live rows in key order, after the key `after`."""
        with self._snapshot(config) as connection:
            return self._table(config, view).select(
                connection,
                columns,
                f"kept.entity_key > ? and not {DELETED} order by kept.entity_key limit ?",
                (after, limit),
            )

    def tables(self, config: Any, prefix: str) -> list[str]:
        """Names of the views that have a table here and begin with `prefix`, whoever made them."""
        start = f"{config.project}_"
        with self._snapshot(config) as connection:
            names = {name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")}
        wanted = (name for name in names if name.startswith(start + prefix) and _FOLLOWED + name in names)
        return sorted(name.removeprefix(start) for name in wanted)

    def disconnect(self) -> None:
        """Close every connection of this process; the next call opens a new one."""
        self._after_fork()
        for connection in list(self._open):
            connection.close()
        self._open.clear()
        self._local = threading.local()

    # Connections and transactions.

    def _after_fork(self) -> None:
        if self._pid != os.getpid():
            # A child must neither use nor close its parent's connections: closing drops the parent's locks.
            _INHERITED.extend(self._open)
            self._open = weakref.WeakSet()
            self._local = threading.local()
            self._writing = threading.Lock()
            self._pid = os.getpid()

    def _connection(self, config: Any) -> _Connection:
        self._after_fork()
        path = _path(config)
        connection: _Connection | None = getattr(self._local, "connection", None)
        if connection is None or connection.path != path:
            connection = self._local.connection = _connect(path, config.online_store.busy_timeout_s)
            self._open.add(connection)
        return connection

    @contextmanager
    def _transaction(self, config: Any, begin: str = "begin immediate") -> Iterator[_Connection]:
        """One transaction; rolled back on any exception, so that a bad row leaves no open one behind."""
        path = _path(config)
        try:
            connection = self._connection(config)
            connection.execute(begin)
            try:
                yield connection
                connection.execute("commit")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("rollback")
                raise
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise StoreBusyError(
                    f"{path} was locked by another process for {config.online_store.busy_timeout_s:g} s: "
                    "end that process, or raise online_store.busy_timeout_s."
                ) from error
            if "no such table" in str(error) or "no such column" in str(error):
                raise StoreStateError(f"{path}: {error}. Register the view first: `feast apply`.") from error
            raise StoreStateError(f"{path}: {error}.") from error
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", None) in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
                raise StoreStateError(
                    f"{path}: {error}. Move the file away and rebuild it from the history."
                ) from error
            raise

    def _snapshot(self, config: Any) -> Any:
        return self._transaction(config, "begin")

    # Tables.

    def _table(self, config: Any, view: Any) -> _Table:
        names = tuple(feature.name for feature in view.features)
        key = (view.name, names)
        table = self._tables.get(key)
        if table is None:
            table = self._tables[key] = _Table.of(config, view)
        return table

    def _make_table(self, connection: _Connection, table: _Table) -> None:
        there = {row[1] for row in connection.execute(f"pragma table_info({table.name})")}
        if there and not there.issuperset(_GUARD_COLUMNS):
            raise StoreStateError(
                f"Table {table.name} of {connection.path} was made by another kind of online store: "
                "name another file in online_store.path."
            )
        connection.execute(
            f"create table if not exists {table.name} (entity_key blob primary key, event_us integer not null, "
            f"{VERSION} integer not null, {DELETED} integer not null)"
        )
        for column in table.columns:
            if column not in there:
                connection.execute(f"alter table {table.name} add column {_quoted(column)} blob")
        connection.execute(
            f"create table if not exists {table.followed} (entity_key blob primary key, {VERSION} integer not null, "
            "event_us integer not null) without rowid"
        )

    def _nearest(
        self, config: Any, view: Any, column: str, query: Any, top_k: int, metric: str
    ) -> list[tuple[bytes, float]]:
        """Keys and distances of the `top_k` nearest live rows, nearest first, in bounded memory."""
        best: list[tuple[float, bytes]] = []
        after = b""
        while page := self.page(config, view, [column], after):
            after = page[-1].key
            vectors = [decode_vector(row.values[0], len(query)) for row in page]
            keys = [row.key for row, vector in zip(page, vectors, strict=True) if len(vector) == len(query)]
            if not keys:
                continue
            distances = _distances(np.stack([v for v in vectors if len(v) == len(query)]), query, metric)
            best += zip(distances.tolist(), keys, strict=True)
            best = sorted(best)[:top_k]
        return [(key, distance) for distance, key in best]


@dataclass(frozen=True)
class _Table:
    """A view's table and the statements over it."""

    name: str  # quoted
    followed: str  # quoted: of rows that follow other views in version, how far; no row is rewritten for that
    columns: tuple[str, ...]

    @classmethod
    def of(cls, config: Any, view: Any) -> _Table:
        columns = payload_columns(view)
        if clash := {"entity_key", "event_us"}.intersection(columns):
            raise InvalidFeatureError(f"View {view.name} may not name a feature {clash.pop()!r}: the store uses it.")
        versioned = config.registry.enable_online_feature_view_versioning
        name = compute_table_id(config.project, view, versioned)
        return cls(_quoted(name), _quoted(_FOLLOWED + name), columns)

    @property
    def advance_sql(self) -> str:
        return (
            f"insert into {self.followed} as kept ({VERSION}, event_us, entity_key) select ?, ?, ? "
            f"where exists (select 1 from {self.name} where entity_key = ?) on conflict (entity_key) do update set "
            f"{VERSION}=excluded.{VERSION}, event_us=excluded.event_us where excluded.{VERSION} >= kept.{VERSION}"
        )

    def insert(self, connection: _Connection, rows: Sequence[OnlineRow]) -> set[bytes]:
        """Write the rows that are not older than what is there; the keys of those."""
        names = [*_GUARD_COLUMNS, *map(_quoted, self.columns)]
        one = f"({','.join('?' * len(names))})"
        step = min(_ROWS_PER_INSERT, _MAX_VARIABLES // len(names))
        written: set[bytes] = set()
        for start in range(0, len(rows), step):
            some = rows[start : start + step]
            parameters: list[Any] = []
            for row in some:
                parameters += (row.key, row.event_us, row.version, row.deleted, *row.values)
            written.update(
                key
                for (key,) in connection.execute(
                    f"insert into {self.name} as kept ({','.join(names)}) values {','.join([one] * len(some))} "
                    f"on conflict (entity_key) do update set {','.join(f'{n}=excluded.{n}' for n in names[1:])} "
                    f"where excluded.{VERSION} >= kept.{VERSION} and not exists (select 1 from {self.followed} as "
                    f"other where other.entity_key = kept.entity_key and other.{VERSION} > excluded.{VERSION}) "
                    "returning entity_key",
                    parameters,
                )
            )
        return written

    def select(
        self, connection: _Connection, columns: Sequence[str], where: str, parameters: Sequence[Any]
    ) -> list[OnlineRow]:
        """Rows of the table `kept` as they are, with the versions that they have followed to."""
        guard = ("kept.entity_key", _later(VERSION), DELETED, _later("event_us"))
        names = ",".join((*guard, *map(_quoted, columns)))
        rows = connection.execute(
            f"select {names} from {self.name} as kept left join {self.followed} as other "
            f"on other.entity_key = kept.entity_key where {where}",
            parameters,
        )
        return [OnlineRow(row[0], row[1], bool(row[2]), row[3], row[4:]) for row in rows]


def _later(column: str) -> str:
    return f"case when other.{VERSION} >= kept.{VERSION} then other.{column} else kept.{column} end"


class _Connection(sqlite3.Connection):
    """A connection that can be referred to weakly: a thread that ends takes its own along."""

    path: Path


# Connections that came over a fork. Kept, because the garbage collector would close them.
_INHERITED: list[_Connection] = []


def payload_columns(view: Any) -> tuple[str, ...]:
    """The features that a table keeps as serialised values: all but those that order and hide its rows."""
    return tuple(feature.name for feature in view.features if feature.name not in (VERSION, DELETED))


def microseconds(moment: datetime) -> int:
    """Microseconds since the Unix epoch; a time without a zone is UTC, as everywhere in Feast."""
    return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH) // _MICROSECOND


def from_microseconds(event_us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=event_us)


def _connect(path: Path, busy_timeout_s: float) -> _Connection:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreStateError(f"Cannot make the folder of the online store {path}: {error}.") from error
    connection = sqlite3.connect(
        path,
        factory=_Connection,
        timeout=busy_timeout_s,
        isolation_level=None,  # transactions are begun and ended by us
        check_same_thread=False,  # `disconnect` closes the connections of all threads
    )
    connection.path = path
    if connection.execute("pragma journal_mode").fetchone() != ("wal",):
        connection.execute("pragma journal_mode = wal")
    # Every commit is synced: the caller commits its offsets next, and what a loss of power took would not come again.
    # It costs 0.2 to 4 ms a transaction, of one row or of hundreds.
    connection.execute("pragma synchronous = full")
    return connection


def _path(config: Any) -> Path:
    path = Path(config.online_store.path)
    return path if path.is_absolute() or config.repo_path is None else Path(config.repo_path) / path


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _key(config: Any, entity_key: Any) -> bytes:
    return bytes(serialize_entity_key(entity_key, config.entity_key_serialization_version))


def _feast_key(config: Any, key: bytes) -> Any:
    return deserialize_entity_key(key, config.entity_key_serialization_version)


def _as_feast_row(
    row: OnlineRow | None, names: Sequence[str], columns: Sequence[str]
) -> tuple[datetime | None, dict[str, Any] | None]:
    """What `online_read` answers for one product: nothing for one that is unknown or deleted."""
    if row is None or row.deleted:
        return None, None
    values = {name: Value.FromString(blob or b"") for name, blob in zip(columns, row.values, strict=True)}
    if VERSION in names:
        values[VERSION] = Value(int64_val=row.version)
    if DELETED in names:
        values[DELETED] = Value(bool_val=False)
    return from_microseconds(row.event_us), values


def _distances(vectors: Any, query: Any, metric: str) -> Any:
    """Distances [n] of vectors [n, d]; smaller is nearer."""
    if metric.lower() == "cosine":
        lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(query)
        return 1.0 - vectors @ query / np.maximum(lengths, np.finfo(np.float32).tiny)
    if metric.lower() == "l2":
        return np.linalg.norm(vectors - query, axis=1)
    if metric.lower() == "inner_product":
        return -(vectors @ query)
    raise InvalidFeatureError(f"Unknown distance {metric!r}: use cosine, L2 or inner_product.")

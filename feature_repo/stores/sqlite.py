"""A SQLite online store for Feast in which the newest version of a product always wins.

Feast's own SQLite store overwrites newer values with late ones, keeps times in whole seconds, writes one row per
feature, and cannot delete a product. `feature_store.yaml` names this store instead, and Feast's own readers and writers
use it (`get_online_features`, `push`, `materialize`, `retrieve_online_documents_v2`). It keeps one row per product and
view, so that one statement both compares the versions and writes all features:

    insert ... on conflict (entity_key) do update set ... where excluded.version >= version

The rules of all guarded stores are in `feature_repo.stores.base`. SQLite's part:

* A row has two versions: `version`, under which its features were written, and `followed`, the newest version of its
  product that it has followed without a rewrite.
* A view with the tag `follows` does not store `followed`: its rows are as new as the *version row*, the row of the same
  product in the view that the tag names (for texts and images, the offer). A new price then writes one small row
  and does not touch the large rows with texts and vectors.
* The database uses WAL and one connection per thread; a child process opens its own. A commit is on the disk when it
  returns: a loss of power does not undo it.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import uuid
import weakref
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from feast import Entity, FeatureView, RepoConfig
from feast.infra.online_stores.helpers import compute_table_id
from feast.infra.online_stores.vector_store import VectorStoreConfig
from feast.repo_config import FeastConfigBaseModel
from pydantic import StrictStr, field_validator

from feature_repo.definitions import DELETED, FOLLOWS, VERSION
from feature_repo.errors import InvalidFeatureError, StoreBusyError, StoreStateError
from feature_repo.online_row import OnlineRow, newest_of_each_key, payload_columns
from feature_repo.stores.base import PAGE_ROWS, GuardedOnlineStore, ViewColumns, ViewRows

# SQLite's default limit of bound values in one statement (SQLITE_MAX_VARIABLE_NUMBER since 3.32).
_MAX_VARIABLES: Final = 32_766
# Rows of one insert: a longer statement costs more parsing and planning, and is not faster.
_ROWS_PER_INSERT: Final = 128
_WRITTEN: Final = ("entity_key", "event_us", VERSION, DELETED)  # columns that a write sets in addition to the features
_FOLLOWED: Final = ("followed", "followed_us")  # the version that a row has followed to, and its event time
_NEVER: Final = -(2**62)  # below every version: the row has not followed any
_IDENTITIES: Final = "table_identity"

_Parameter = bytes | int | str | None


class GuardedSqliteOnlineStoreConfig(FeastConfigBaseModel, VectorStoreConfig):
    """Settings below `online_store:` in `feature_store.yaml`."""

    type: Literal["feature_repo.stores.sqlite.GuardedSqliteOnlineStore"] = (
        "feature_repo.stores.sqlite.GuardedSqliteOnlineStore"
    )
    path: StrictStr
    """File of the database; a relative path starts at `feature_store.yaml`."""
    busy_timeout_s: float = 30.0
    """How long to wait for the write of another process, in seconds."""

    @field_validator("path")
    @classmethod
    def _path_is_filled_in(cls, path: str) -> str:
        if "$" in path:
            raise ValueError(f"{path!r} names an environment variable that is not set: set it to a folder.")
        return path


class GuardedSqliteOnlineStore(GuardedOnlineStore):
    """Feast online store over SQLite, ordered by version; see the module's docstring. Threads may share one."""

    def __init__(self) -> None:
        self._local = threading.local()
        self._open: weakref.WeakSet[_Connection] = weakref.WeakSet()
        self._tables: dict[tuple[str, tuple[str, ...]], _Table] = {}
        # Threads of this process wait here: a writer that finds the file locked sleeps for up to 0.1 s at a time.
        self._writing = threading.Lock()
        self._pid = os.getpid()

    # What Feast calls.

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
        partial: bool,
    ) -> None:
        """Make, widen or drop the tables of views (`feast apply`)."""
        with self._transaction(config) as connection:
            for view in tables_to_keep:
                _Table.of(config, view).make(connection)
            for view in tables_to_delete:
                table = _Table.of(config, view)
                connection.execute(f"drop table if exists {table.name}")
                _make_identities(connection)
                connection.execute(f"delete from {_IDENTITIES} where name = ?", (table.name,))

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]) -> None:
        """Delete the database (`feast teardown`)."""
        self.disconnect()
        path = _path(config)
        for file in (path, *(path.with_name(path.name + suffix) for suffix in ("-wal", "-shm"))):
            file.unlink(missing_ok=True)

    # What all guarded stores can do.

    def write(
        self,
        config: RepoConfig,
        batches: Sequence[ViewRows],
        advance: Sequence[FeatureView] = (),
        *,
        equal: bool = True,
        repair: bool = False,
    ) -> list[set[bytes]]:
        """Write rows of several views in one transaction; see `GuardedOnlineStore.write`."""
        refused = []
        self._after_fork()
        with self._writing, self._transaction(config) as connection:
            for view, rows in batches:
                table = self._table(config, view)
                written = table.upsert(connection, rows, equal, repair)
                refused.append({row.key for row in rows} - written)
                moved = newest_of_each_key([row for row in rows if row.key in written]) if advance else []
                _advance_all(connection, table, [self._table(config, other) for other in advance], moved)
        return refused

    def read(
        self,
        config: RepoConfig,
        columns: Sequence[ViewColumns],
        keys: Collection[bytes],
        *,
        own_versions: bool = False,
    ) -> list[dict[bytes, OnlineRow]]:
        """Read rows of several views, by one statement per view and 32,766 keys; see `GuardedOnlineStore.read`."""
        keys = list(dict.fromkeys(keys))
        results: list[dict[bytes, OnlineRow]] = []
        with self._snapshot(config) as connection:
            for view, names in columns:
                table = self._table(config, view)
                rows: dict[bytes, OnlineRow] = {}
                for start in range(0, len(keys), _MAX_VARIABLES):
                    some = keys[start : start + _MAX_VARIABLES]
                    where = f"stored.entity_key in ({','.join('?' * len(some))})"
                    rows.update((row.key, row) for row in table.select(connection, names, where, some, own_versions))
                results.append(rows)
        return results

    def page(
        self, config: RepoConfig, view: FeatureView, columns: Sequence[str], after: bytes = b"", limit: int = PAGE_ROWS
    ) -> list[OnlineRow]:
        """Read the next `limit` live rows after the key `after`, in key order."""
        with self._snapshot(config) as connection:
            return self._table(config, view).select(
                connection,
                columns,
                f"stored.entity_key > ? and not stored.{DELETED} order by stored.entity_key limit ?",
                (after, limit),
            )

    def tables(self, config: RepoConfig, prefix: str) -> list[str]:
        """Return the sorted names of the views that have a table and begin with `prefix`."""
        start = f"{config.project}_"
        guarded = "select m.name from sqlite_master as m join pragma_table_info(m.name) as c where c.name = ?"
        with self._snapshot(config) as connection:
            names = [name for (name,) in connection.execute(guarded, _FOLLOWED[:1])]
        return sorted(name.removeprefix(start) for name in names if name.startswith(start + prefix))

    def count(self, config: RepoConfig, view: FeatureView) -> int:
        """Count the rows of a view, tombstones included."""
        with self._snapshot(config) as connection:
            (rows,) = connection.execute(f"select count(*) from {self._table(config, view).name}").fetchone()
        return int(rows)

    def identity(self, config: RepoConfig, view: FeatureView) -> str:
        """Return the random name that a view's table gets once."""
        name = self._table(config, view).name
        with self._writing, self._transaction(config) as connection:
            _make_identities(connection)
            connection.execute(f"insert or ignore into {_IDENTITIES} values (?, ?)", (name, uuid.uuid4().hex))
            (identity,) = connection.execute(f"select identity from {_IDENTITIES} where name = ?", (name,)).fetchone()
        return str(identity)

    def disconnect(self) -> None:
        """Close every connection of this process."""
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

    def connection(self, config: RepoConfig) -> sqlite3.Connection:
        """Return the calling thread's connection; open it if needed."""
        return self._connection(config)

    def _connection(self, config: RepoConfig) -> _Connection:
        self._after_fork()
        path = _path(config)
        connection: _Connection | None = getattr(self._local, "connection", None)
        if connection is None or connection.path != path:
            connection = self._local.connection = _connect(path, config.online_store.busy_timeout_s)
            self._open.add(connection)
        return connection

    def _snapshot(self, config: RepoConfig) -> AbstractContextManager[_Connection]:
        """Return a transaction that reads several views as of one time."""
        return self._transaction(config, "begin")

    @contextmanager
    def _transaction(self, config: RepoConfig, begin: str = "begin immediate") -> Iterator[_Connection]:
        """Run one transaction; any exception rolls it back, so that no open transaction stays behind."""
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

    def _table(self, config: RepoConfig, view: FeatureView) -> _Table:
        names = tuple(feature.name for feature in view.features)
        key = (view.name, names)
        table = self._tables.get(key)
        if table is None:
            table = self._tables[key] = _Table.of(config, view)
        return table


@dataclass(frozen=True)
class _Table:
    """A view's table and the statements over it. In all of them, `stored` is a row of this table.

    Attributes:
        name: Quoted name.
        version_table: Quoted name of the table with the version rows: the table of the view that the tag `follows`
            names, or this table itself.
        columns: The columns of serialized features.
    """

    name: str
    version_table: str
    columns: tuple[str, ...]

    @classmethod
    def of(cls, config: RepoConfig, view: FeatureView) -> _Table:
        """Return the table of a view.

        Raises:
            InvalidFeatureError: The store has its own column with the name of a feature.
        """
        columns = payload_columns(view)
        if clash := {"entity_key", "event_us", *_FOLLOWED}.intersection(columns):
            raise InvalidFeatureError(f"View {view.name} may not name a feature {clash.pop()!r}: the store uses it.")
        versioned = config.registry.enable_online_feature_view_versioning
        name = compute_table_id(config.project, view, versioned)
        project = f"{config.project}_"
        followed_view = view.tags.get(FOLLOWS, view.name)
        version_table = project + name.removeprefix(project).replace(view.name, followed_view, 1)
        return cls(_quoted(name), _quoted(version_table), columns)

    @property
    def _follows(self) -> bool:
        return self.version_table != self.name

    def make(self, connection: _Connection) -> None:
        """Make the table, or add the columns of new features.

        Raises:
            StoreStateError: The table exists and another kind of store made it.
        """
        existing = {row[1] for row in connection.execute(f"pragma table_info({self.name})")}
        if existing and not existing.issuperset((*_WRITTEN, *_FOLLOWED)):
            raise StoreStateError(
                f"Table {self.name} of {connection.path} was made by another kind of online store: "
                "name another file in online_store.path."
            )
        connection.execute(
            f"create table if not exists {self.name} (entity_key blob primary key, event_us integer not null, "
            f"{VERSION} integer not null, {DELETED} integer not null, "
            f"followed integer not null default {_NEVER}, followed_us integer not null default 0)"
        )
        for column in self.columns:
            if column not in existing:
                connection.execute(f"alter table {self.name} add column {_quoted(column)} blob")

    def upsert(self, connection: _Connection, rows: Sequence[OnlineRow], equal: bool, repair: bool) -> set[bytes]:
        """Write the rows that pass the guard and return their keys; for `equal` and `repair` see the base class."""
        names = [*_WRITTEN, *map(_quoted, self.columns)]
        step = min(_ROWS_PER_INSERT, _MAX_VARIABLES // len(names))
        written: set[bytes] = set()
        for start in range(0, len(rows), step):
            some = rows[start : start + step]
            parameters: list[_Parameter] = []
            for row in some:
                parameters += (row.key, row.event_us, row.version, row.deleted, *row.values)
            statement = self._upsert_statement(names, len(some), equal, repair)
            written.update(key for (key,) in connection.execute(statement, parameters))
        return written

    def _upsert_statement(self, names: Sequence[str], rows: int, equal: bool, repair: bool) -> str:
        one = f"({','.join('?' * len(names))})"
        assignments = ",".join(f"{name}=excluded.{name}" for name in names[1:])
        guard = f"excluded.{VERSION} {'>=' if equal else '>'} stored.{VERSION}"
        if not repair:
            guard += f" and excluded.{VERSION} >= {self._followed_version()}"
        return (
            f"insert into {self.name} as stored ({','.join(names)}) values {','.join([one] * rows)} "
            f"on conflict (entity_key) do update set {assignments} where {guard} returning entity_key"
        )

    def _followed_version(self) -> str:
        """The SQL of the newest version that `stored` has followed to."""
        if not self._follows:
            return "stored.followed"
        return (
            f"max(stored.followed, ifnull((select max(version_row.{VERSION}, version_row.followed) "
            f"from {self.version_table} as version_row where version_row.entity_key = stored.entity_key), {_NEVER}))"
        )

    def select(
        self,
        connection: _Connection,
        columns: Sequence[str],
        where: str,
        parameters: Sequence[_Parameter],
        own_versions: bool = False,
    ) -> list[OnlineRow]:
        """Read rows with the versions that they have followed to, or were written under.

        Args:
            connection: The connection.
            columns: The payload columns to read.
            where: A condition on `stored`.
            parameters: The values of the condition.
            own_versions: Whether to return the versions that the rows were written under.
        """
        version, event_us, source = f"stored.{VERSION}", "stored.event_us", f"{self.name} as stored"
        if not own_versions:
            version, event_us = self._reached_version()
            if self._follows:
                source += f" left join {self.version_table} as version_row using (entity_key)"
        names = (
            "stored.entity_key",
            version,
            f"stored.{DELETED}",
            event_us,
            *(f"stored.{_quoted(c)}" for c in columns),
        )
        rows = connection.execute(f"select {','.join(names)} from {source} where {where}", parameters)
        return [OnlineRow(row[0], row[1], bool(row[2]), row[3], row[4:]) for row in rows]

    def _reached_version(self) -> tuple[str, str]:
        """The SQL of the newest of a row's versions, and of the event time of that version."""
        row = "version_row" if self._follows else "stored"
        of_version_row = f"ifnull(max({row}.{VERSION}, {row}.followed), {_NEVER})"
        version = f"max(stored.{VERSION}, stored.followed, {of_version_row})"
        event_us = (
            f"case when max({of_version_row}, stored.followed) < stored.{VERSION} then stored.event_us "
            f"when stored.followed > {of_version_row} then stored.followed_us "
            f"when {row}.followed >= {row}.{VERSION} then {row}.followed_us else {row}.event_us end"
        )
        return version, event_us


def _advance_all(connection: _Connection, written: _Table, others: Sequence[_Table], rows: Sequence[OnlineRow]) -> None:
    """Let the rows of other views follow: by their version rows, or by themselves where a version row is missing."""
    for version_table in dict.fromkeys(table.version_table for table in others):
        if version_table == written.name:  # `rows` are the version rows
            continue
        if _advance(connection, version_table, rows) < len(rows):
            for table in others:
                if table.version_table == version_table != table.name:
                    _advance(connection, table.name, rows)


def _advance(connection: _Connection, table: str, rows: Sequence[OnlineRow]) -> int:
    """Let the existing rows of these keys follow to these versions; return how many did."""
    moved = 0
    for start in range(0, len(rows), _ROWS_PER_INSERT):
        some = rows[start : start + _ROWS_PER_INSERT]
        parameters: list[_Parameter] = []
        for row in some:
            parameters += (row.version, row.event_us, row.key)
        moved += connection.execute(
            f"update {table} as stored set followed = column1, followed_us = column2 "
            f"from (values {','.join(['(?,?,?)'] * len(some))}) "
            "where stored.entity_key = column3 and column1 >= stored.followed",
            parameters,
        ).rowcount
    return moved


def _make_identities(connection: _Connection) -> None:
    connection.execute(
        f"create table if not exists {_IDENTITIES} (name text primary key, identity text not null) without rowid"
    )


class _Connection(sqlite3.Connection):
    """A connection that allows weak references: it is closed when its thread ends."""

    path: Path


# Connections of the parent process. A reference keeps the garbage collector from closing them.
_INHERITED: list[_Connection] = []


def _connect(path: Path, busy_timeout_s: float) -> _Connection:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreStateError(f"Cannot make the folder of the online store {path}: {error}.") from error
    connection = sqlite3.connect(
        path,
        factory=_Connection,
        timeout=busy_timeout_s,
        isolation_level=None,  # this module begins and ends the transactions
        check_same_thread=False,  # `disconnect` closes the connections of all threads
    )
    connection.path = path
    if connection.execute("pragma journal_mode").fetchone() != ("wal",):
        connection.execute("pragma journal_mode = wal")
    # Every commit is synced: the caller commits its Kafka offsets next, so a lost write is never repeated. It costs
    # 0.2 to 4 ms per transaction, of one row or of hundreds.
    connection.execute("pragma synchronous = full")
    return connection


def _path(config: RepoConfig) -> Path:
    path = Path(config.online_store.path)
    return path if path.is_absolute() or config.repo_path is None else Path(config.repo_path) / path


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'

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
* A row that only follows others in version (`write`'s `advance`) has that in columns of its own. A view whose tag
  `follows` names another view leaves that to it: its rows are as new as that view's row of the same product. So a new
  price writes one small row, and the rows full of texts and vectors are not touched.
* WAL, one connection per thread, and none shared with a forked child. A commit is on the disk when it returns: a loss
  of power takes nothing with it.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import uuid
import weakref
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from feast.infra.online_stores.helpers import compute_table_id
from feast.infra.online_stores.vector_store import VectorStoreConfig
from feast.repo_config import FeastConfigBaseModel
from pydantic import StrictStr, field_validator

from feature_repo.definitions import DELETED, FOLLOWS, VERSION
from feature_repo.errors import InvalidFeatureError, StoreBusyError, StoreStateError
from feature_repo.stores.base import (
    SCAN_PAGE,
    GuardedOnlineStore,
    OnlineRow,
    newest_of_each_key,
    payload_columns,
)

__all__ = [
    "GuardedSqliteOnlineStore",
    "GuardedSqliteOnlineStoreConfig",
    "OnlineRow",
    "payload_columns",
]

# SQLite's default limit of bound values in one statement (SQLITE_MAX_VARIABLE_NUMBER since 3.32).
_MAX_VARIABLES: Final = 32_766
# Rows of one insert: longer statements are parsed and planned anew for no gain.
_ROWS_PER_INSERT: Final = 128
_GUARD_COLUMNS: Final = ("entity_key", "event_us", VERSION, DELETED)
_FOLLOWED: Final = ("followed", "followed_us")  # the version that a row has followed to, and its event time
_NEVER: Final = -(2**62)  # a version below every other, as of a row that has followed none
_FOLLOWED_COLUMNS: Final = (f"followed integer not null default {_NEVER}", "followed_us integer not null default 0")
_IDENTITIES: Final = "table_identity"


class GuardedSqliteOnlineStoreConfig(FeastConfigBaseModel, VectorStoreConfig):
    """Settings below `online_store:` in `feature_store.yaml`."""

    type: Literal["feature_repo.stores.sqlite.GuardedSqliteOnlineStore"] = (
        "feature_repo.stores.sqlite.GuardedSqliteOnlineStore"
    )
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


class GuardedSqliteOnlineStore(GuardedOnlineStore):
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
                connection.execute(f"drop table if exists {table.name}")
                connection.execute(f"drop view if exists {table.beside}")
                self._make_identities(connection)
                connection.execute(f"delete from {_IDENTITIES} where name = ?", (table.name,))

    def teardown(self, config: Any, tables: Sequence[Any], entities: Sequence[Any]) -> None:
        """Delete the database (`feast teardown`)."""
        self.disconnect()
        path = _path(config)
        for file in (path, *(path.with_name(path.name + suffix) for suffix in ("-wal", "-shm"))):
            file.unlink(missing_ok=True)

    # What all guarded stores can do.

    def write(
        self,
        config: Any,
        batches: Sequence[tuple[Any, Sequence[OnlineRow]]],
        advance: Sequence[Any] = (),
        *,
        equal: bool = True,
        repair: bool = False,
    ) -> list[set[bytes]]:
        stale = []
        self._after_fork()
        with self._writing, self._transaction(config) as connection:
            for view, rows in batches:
                table = self._table(config, view)
                written = table.insert(connection, rows, equal, repair)
                stale.append({row.key for row in rows} - written)
                moved = newest_of_each_key([row for row in rows if row.key in written]) if advance else []
                _advance_all(connection, table, [self._table(config, other) for other in advance], moved)
        return stale

    def read(
        self,
        config: Any,
        wanted: Sequence[tuple[Any, Sequence[str]]],
        keys: Collection[bytes],
        *,
        own_versions: bool = False,
    ) -> list[dict[bytes, OnlineRow]]:
        """As the base says; one statement per view for up to 32,766 keys."""
        keys = list(dict.fromkeys(keys))
        found: list[dict[bytes, OnlineRow]] = []
        with self._snapshot(config) as connection:
            for view, columns in wanted:
                table = self._table(config, view)
                rows: dict[bytes, OnlineRow] = {}
                for start in range(0, len(keys), _MAX_VARIABLES):
                    some = keys[start : start + _MAX_VARIABLES]
                    where = f"kept.entity_key in ({','.join('?' * len(some))})"
                    rows.update((row.key, row) for row in table.select(connection, columns, where, some, own_versions))
                found.append(rows)
        return found

    def page(
        self, config: Any, view: Any, columns: Sequence[str], after: bytes = b"", limit: int = SCAN_PAGE
    ) -> list[OnlineRow]:
        with self._snapshot(config) as connection:
            return self._table(config, view).select(
                connection,
                columns,
                f"kept.entity_key > ? and not kept.{DELETED} order by kept.entity_key limit ?",
                (after, limit),
            )

    def tables(self, config: Any, prefix: str) -> list[str]:
        start = f"{config.project}_"
        of_ours = "select m.name from sqlite_master as m join pragma_table_info(m.name) as c where c.name = ?"
        with self._snapshot(config) as connection:
            names = [name for (name,) in connection.execute(of_ours, _FOLLOWED[:1])]
        return sorted(name.removeprefix(start) for name in names if name.startswith(start + prefix))

    def count(self, config: Any, view: Any) -> int:
        with self._snapshot(config) as connection:
            (rows,) = connection.execute(f"select count(*) from {self._table(config, view).name}").fetchone()
        return int(rows)

    def identity(self, config: Any, view: Any) -> str:
        name = self._table(config, view).name
        with self._writing, self._transaction(config) as connection:
            self._make_identities(connection)
            connection.execute(f"insert or ignore into {_IDENTITIES} values (?, ?)", (name, uuid.uuid4().hex))
            (found,) = connection.execute(f"select identity from {_IDENTITIES} where name = ?", (name,)).fetchone()
        return str(found)

    def disconnect(self) -> None:
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

    def _make_identities(self, connection: _Connection) -> None:
        connection.execute(
            f"create table if not exists {_IDENTITIES} (name text primary key, identity text not null) without rowid"
        )

    def _make_table(self, connection: _Connection, table: _Table) -> None:
        there = {row[1] for row in connection.execute(f"pragma table_info({table.name})")}
        if there and not there.issuperset(_GUARD_COLUMNS):
            raise StoreStateError(
                f"Table {table.name} of {connection.path} was made by another kind of online store: "
                "name another file in online_store.path."
            )
        connection.execute(
            f"create table if not exists {table.name} (entity_key blob primary key, event_us integer not null, "
            f"{VERSION} integer not null, {DELETED} integer not null, {_FOLLOWED_COLUMNS[0]}, {_FOLLOWED_COLUMNS[1]})"
        )
        for column, definition in zip(_FOLLOWED, _FOLLOWED_COLUMNS, strict=True):
            if there and column not in there:
                connection.execute(f"alter table {table.name} add column {definition}")
        for column in table.columns:
            if column not in there:
                connection.execute(f"alter table {table.name} add column {_quoted(column)} blob")
        self._take_over(connection, table)

    def _take_over(self, connection: _Connection, table: _Table) -> None:
        """What older programs kept in a table beside; a view in its place stops those that still run or come back.

        Without the view one that is started again would make its table anew, and write past us.
        """
        there = connection.execute("select type from sqlite_master where name = ?", (table.beside[1:-1],)).fetchone()
        if there == ("table",):
            connection.execute(
                f"update {table.name} as kept set followed = other.{VERSION}, followed_us = other.event_us "
                f"from {table.beside} as other where other.entity_key = kept.entity_key "
                f"and other.{VERSION} > kept.followed"
            )
            connection.execute(f"drop table {table.beside}")
        if there != ("view",):
            connection.execute(f"create view {table.beside} as select 'of an older program' as taken_over")


@dataclass(frozen=True)
class _Table:
    """A view's table and the statements over it."""

    name: str  # quoted
    leader: str  # quoted: the table whose rows say how far these have followed; this one itself unless tagged
    columns: tuple[str, ...]

    @classmethod
    def of(cls, config: Any, view: Any) -> _Table:
        columns = payload_columns(view)
        if clash := {"entity_key", "event_us", *_FOLLOWED}.intersection(columns):
            raise InvalidFeatureError(f"View {view.name} may not name a feature {clash.pop()!r}: the store uses it.")
        versioned = config.registry.enable_online_feature_view_versioning
        name = compute_table_id(config.project, view, versioned)
        leader = view.tags.get(FOLLOWS, view.name)
        of_project = f"{config.project}_"
        return cls(
            _quoted(name), _quoted(of_project + name.removeprefix(of_project).replace(view.name, leader, 1)), columns
        )

    @property
    def beside(self) -> str:
        """Quoted: where older programs kept how far this table's rows have followed."""
        return _quoted(f"followed_{self.name[1:-1]}")

    @property
    def _newest_elsewhere(self) -> str:
        """Of the row `kept`: the version that it has followed to."""
        if self.leader == self.name:
            return "kept.followed"
        return (
            f"max(kept.followed, ifnull((select max(head.{VERSION}, head.followed) from {self.leader} as head "
            f"where head.entity_key = kept.entity_key), {_NEVER}))"
        )

    def insert(self, connection: _Connection, rows: Sequence[OnlineRow], equal: bool, repair: bool) -> set[bytes]:
        """Write the rows that are newer than what is there, or `equal` to it; the keys of those."""
        passes = ">=" if equal else ">"
        not_followed_past = "" if repair else f"and excluded.{VERSION} >= {self._newest_elsewhere} "
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
                    f"where excluded.{VERSION} {passes} kept.{VERSION} {not_followed_past}returning entity_key",
                    parameters,
                )
            )
        return written

    def select(
        self,
        connection: _Connection,
        columns: Sequence[str],
        where: str,
        parameters: Sequence[Any],
        own_versions: bool = False,
    ) -> list[OnlineRow]:
        """Rows of the table `kept`, with the versions that they have followed to or were written under."""
        version, event_us, source = f"kept.{VERSION}", "kept.event_us", f"{self.name} as kept"
        if not own_versions:
            head = "kept"
            if self.leader != self.name:
                head = "head"
                source += f" left join {self.leader} as head on head.entity_key = kept.entity_key"
            reached = f"ifnull(max({head}.{VERSION}, {head}.followed), {_NEVER})"
            event_us = (
                f"case when max({reached}, kept.followed) < kept.{VERSION} then kept.event_us "
                f"when kept.followed > {reached} then kept.followed_us "
                f"when {head}.followed >= {head}.{VERSION} then {head}.followed_us else {head}.event_us end"
            )
            version = f"max(kept.{VERSION}, kept.followed, {reached})"
        names = ",".join(
            ("kept.entity_key", version, f"kept.{DELETED}", event_us, *(f"kept.{_quoted(c)}" for c in columns))
        )
        rows = connection.execute(f"select {names} from {source} where {where}", parameters)
        return [OnlineRow(row[0], row[1], bool(row[2]), row[3], row[4:]) for row in rows]


def _advance_all(connection: _Connection, written: _Table, others: Sequence[_Table], rows: Sequence[OnlineRow]) -> None:
    """Let other views' rows of these keys follow: by their leader's rows, or by their own where that has none."""
    for leader in dict.fromkeys(table.leader for table in others):
        if leader == written.name:  # they follow by those very rows
            continue
        if _advance(connection, leader, rows) < len(rows):
            for table in others:
                if table.leader == leader != table.name:
                    _advance(connection, table.name, rows)


def _advance(connection: _Connection, table: str, rows: Sequence[OnlineRow]) -> int:
    """The rows of these keys, where there are some, follow to these versions; how many did."""
    moved = 0
    for start in range(0, len(rows), _ROWS_PER_INSERT):
        some = rows[start : start + _ROWS_PER_INSERT]
        parameters: list[Any] = []
        for row in some:
            parameters += (row.version, row.event_us, row.key)
        moved += connection.execute(
            f"update {table} as kept set followed = column1, followed_us = column2 "
            f"from (values {','.join(['(?,?,?)'] * len(some))}) "
            "where kept.entity_key = column3 and column1 >= kept.followed",
            parameters,
        ).rowcount
    return moved


class _Connection(sqlite3.Connection):
    """A connection that can be referred to weakly: a thread that ends takes its own along."""

    path: Path


# Connections that came over a fork. Kept, because the garbage collector would close them.
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

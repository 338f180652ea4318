"""A PostgreSQL online store for Feast in which the newest version of a product always wins.

Feast's own overwrites newer values with late ones, keeps one row per feature, and is wedged by one text with a NUL byte
until it is restarted. This one keeps one row per product and view and shares what it means with the SQLite store
(`feature_repo.stores.base`). What is PostgreSQL's own:

* One statement per view and write: the rows travel as arrays, in binary. PostgreSQL re-checks its `where` on the row
  that it has locked, so two writers cannot both pass the guard.
* Rows are written in key order: two writers of the same products wait for each other, they do not deadlock. Should the
  server break one off all the same (a deadlock with others, a failover), it is tried again.
* The version that a row has followed to is a column beside its own: large values lie out of line (TOAST), and moving a
  row's version does not rewrite them.
* Values are `bytea`: a NUL byte is a byte like any other.
* One connection per thread, none over a fork. A connection that broke is opened anew by the next call.

Needs psycopg 3 (`pip install 'sagelift[postgres]'`).
"""

from __future__ import annotations

import os
import threading
import uuid
import weakref
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

import psycopg
from feast.infra.online_stores.helpers import compute_table_id
from feast.infra.online_stores.vector_store import VectorStoreConfig
from feast.repo_config import FeastConfigBaseModel
from psycopg import errors, sql
from pydantic import SecretStr, field_validator

from feature_repo.definitions import DELETED, VERSION
from feature_repo.errors import InvalidFeatureError, StoreBusyError, StoreStateError
from feature_repo.stores.base import (
    SCAN_PAGE,
    GuardedOnlineStore,
    OnlineRow,
    filled_in,
    newest_of_each_key,
    payload_columns,
)

_GUARD: Final = (("entity_key", "bytea"), ("event_us", "int8"), (VERSION, "int8"), (DELETED, "bool"))
_OWN_COLUMNS: Final = {"entity_key", "event_us", "followed", "followed_us"}
_IDENTIFIER_BYTES: Final = 63  # PostgreSQL cuts longer names off, and two views would share a table
_TRIES: Final = 5
# What the server breaks off through no fault of the statement's: two writers in each other's way, or a failover.
_AGAIN: Final = (errors.DeadlockDetected, errors.SerializationFailure, errors.AdminShutdown, errors.CannotConnectNow)

_Result = TypeVar("_Result")


class GuardedPostgresOnlineStoreConfig(FeastConfigBaseModel, VectorStoreConfig):
    """Settings below `online_store:` in `feature_store.yaml`."""

    type: Literal["feature_repo.stores.postgres.GuardedPostgresOnlineStore"] = (
        "feature_repo.stores.postgres.GuardedPostgresOnlineStore"
    )
    conninfo: SecretStr
    """As libpq takes it: `postgresql://user:password@host/database?sslmode=verify-full`, or `host=... dbname=...`."""
    db_schema: str = "public"
    """Schema of the tables; it must be there."""
    lock_timeout_s: float = 30.0
    """How long to wait for another writer's rows before giving up."""

    @field_validator("conninfo")
    @classmethod
    def _conninfo_is_filled_in(cls, conninfo: SecretStr) -> SecretStr:
        return filled_in("conninfo", conninfo)


class GuardedPostgresOnlineStore(GuardedOnlineStore):
    """Feast online store over PostgreSQL, ordered by version; see the module's text. Safe to share between threads."""

    def __init__(self) -> None:
        self._local = threading.local()
        self._open: weakref.WeakSet[_Session] = weakref.WeakSet()
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
        keep = [_Table.of(config, view) for view in tables_to_keep]
        drop = [_Table.of(config, view) for view in tables_to_delete]

        def work(connection: Any) -> None:
            # Two processes that make the same table at once would fail on the catalogue.
            connection.execute("select pg_advisory_xact_lock(hashtext('feature_repo.stores.postgres'))")
            for table in keep:
                _make(connection, table)
            for table in drop:
                connection.execute(sql.SQL("drop table if exists {}").format(table.name))

        self._transaction(config, work)

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
        tables = [(_Table.of(config, view), newest_of_each_key(rows), rows) for view, rows in batches]
        others = [_Table.of(config, view) for view in advance]

        def work(connection: Any) -> list[set[bytes]]:
            stale = []
            for table, newest, rows in tables:
                written = table.insert(connection, newest, equal, repair)
                stale.append({row.key for row in rows} - written)
                moved = [row for row in newest if row.key in written]
                for other in others:
                    other.advance(connection, moved)
            return stale

        return self._transaction(config, work)

    def read(
        self,
        config: Any,
        wanted: Sequence[tuple[Any, Sequence[str]]],
        keys: Collection[bytes],
        *,
        own_versions: bool = False,
    ) -> list[dict[bytes, OnlineRow]]:
        keys = list(dict.fromkeys(keys))
        tables = [(_Table.of(config, view), columns) for view, columns in wanted]

        def work(connection: Any) -> list[dict[bytes, OnlineRow]]:
            where = sql.SQL("entity_key = any(%b)")
            found = []
            for table, columns in tables:
                rows = table.select(connection, columns, where, [keys], own_versions)
                found.append({row.key: row for row in rows})
            return found

        # One moment for all the views: each statement of a plain transaction would see its own.
        return self._transaction(config, work, "set transaction isolation level repeatable read, read only")

    def page(
        self, config: Any, view: Any, columns: Sequence[str], after: bytes = b"", limit: int = SCAN_PAGE
    ) -> list[OnlineRow]:
        table = _Table.of(config, view)
        where = sql.SQL("entity_key > %b and not {} order by entity_key limit %b").format(sql.Identifier(DELETED))
        return self._transaction(config, lambda connection: table.select(connection, columns, where, [after, limit]))

    def tables(self, config: Any, prefix: str) -> list[str]:
        start = f"{config.project}_"
        query = (
            "select c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace "
            "join pg_attribute a on a.attrelid = c.oid and a.attname = 'followed_us' "
            "where n.nspname = %s and c.relkind = 'r' and starts_with(c.relname, %s)"
        )
        parameters = (config.online_store.db_schema, start + prefix)
        rows = self._transaction(config, lambda connection: connection.execute(query, parameters).fetchall())
        return sorted(name.removeprefix(start) for (name,) in rows)

    def count(self, config: Any, view: Any) -> int:
        query = sql.SQL("select count(*) from {}").format(_Table.of(config, view).name)
        return int(self._transaction(config, lambda connection: connection.execute(query).fetchone()[0]))

    def identity(self, config: Any, view: Any) -> str:
        """A comment on the table: it goes with it. `truncate` keeps it: then run `--full`."""
        name = _Table.of(config, view).name

        def work(connection: Any) -> str:
            query = sql.SQL("select obj_description({}::regclass)").format(name.as_string(connection))
            (found,) = connection.execute(query).fetchone()
            if not found:
                found = uuid.uuid4().hex
                connection.execute(sql.SQL("comment on table {} is {}").format(name, found))
            return str(found)

        return self._transaction(config, work)

    def disconnect(self) -> None:
        self._after_fork()
        for session in list(self._open):
            session.connection.close()
        self._open.clear()
        self._local = threading.local()

    # Connections and transactions.

    def _after_fork(self) -> None:
        if self._pid != os.getpid():
            # A child must neither use nor close its parent's connections: closing would end the parent's session.
            _INHERITED.extend(self._open)
            self._open = weakref.WeakSet()
            self._local = threading.local()
            self._pid = os.getpid()

    def _connection(self, config: Any) -> Any:
        self._after_fork()
        session: _Session | None = getattr(self._local, "session", None)
        if session is None or session.connection.closed:
            settings = config.online_store
            milliseconds = round(settings.lock_timeout_s * 1000)
            connection = psycopg.connect(
                settings.conninfo.get_secret_value(),
                options=f"-c lock_timeout={milliseconds} -c search_path={settings.db_schema}",
                autocommit=True,
            )
            session = self._local.session = _Session(connection)
            self._open.add(session)
        return session.connection

    def _transaction(self, config: Any, work: Callable[[Any], _Result], begin: str | None = None) -> _Result:
        """Run `work` in one transaction, rolled back on any exception; again when the server broke it off."""
        for attempt in range(1, _TRIES + 1):
            with _translated(config):
                fresh = getattr(self._local, "session", None) is None
                connection = self._connection(config)
                try:
                    with connection.transaction():
                        if begin:
                            connection.execute(begin)
                        return work(connection)
                except _AGAIN:
                    if attempt == _TRIES:
                        raise
                except psycopg.OperationalError:
                    # The server went away since the last call. A write whose commit was under way may be there:
                    # to write it again changes nothing.
                    if not connection.broken or fresh or attempt == _TRIES:
                        raise
                if connection.broken:
                    connection.close()
        raise AssertionError("the last attempt returns or raises")


# Connections that came over a fork. Kept, because the garbage collector would close them.
_INHERITED: list[_Session] = []


class _Session:
    """One thread's connection, closed when the thread ends."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        weakref.finalize(self, connection.close).atexit = False


@dataclass(frozen=True)
class _Table:
    """A view's table and the statements over it."""

    name: sql.Identifier
    columns: tuple[str, ...]

    @classmethod
    def of(cls, config: Any, view: Any) -> _Table:
        columns = payload_columns(view)
        if clash := _OWN_COLUMNS.intersection(columns):
            raise InvalidFeatureError(f"View {view.name} may not name a feature {clash.pop()!r}: the store uses it.")
        name = compute_table_id(config.project, view, config.registry.enable_online_feature_view_versioning)
        for text in (name, *columns):
            if len(text.encode()) > _IDENTIFIER_BYTES:
                raise InvalidFeatureError(
                    f"{text!r} is longer than the {_IDENTIFIER_BYTES} bytes that PostgreSQL keeps: shorten it."
                )
        return cls(sql.Identifier(config.online_store.db_schema, name), columns)

    def insert(self, connection: Any, rows: Sequence[OnlineRow], equal: bool, repair: bool) -> set[bytes]:
        """Write the rows, of different keys, that are newer than what is there, or `equal` to it; the keys of those."""
        if not rows:
            return set()
        rows = sorted(rows, key=lambda row: row.key)
        names = [*(name for name, _ in _GUARD), *self.columns]
        types = [*(kind for _, kind in _GUARD), *["bytea"] * len(self.columns)]
        statement = sql.SQL(
            "insert into {table} as kept ({names}) select * from unnest({arrays}) on conflict (entity_key) do update "
            "set {sets} where excluded.{version} {passes} {there} returning entity_key"
        ).format(
            table=self.name,
            names=_identifiers(names),
            arrays=sql.SQL(", ").join(sql.SQL("%b::" + kind + "[]") for kind in types),
            sets=sql.SQL(", ").join(
                sql.SQL("{0} = excluded.{0}").format(sql.Identifier(name)) for name in names if name != "entity_key"
            ),
            version=sql.Identifier(VERSION),
            passes=sql.SQL(">=" if equal else ">"),
            there=sql.SQL("kept.{0}" if repair else "greatest(kept.{0}, kept.followed)").format(
                sql.Identifier(VERSION)
            ),
        )
        parameters = [(row.key, row.event_us, row.version, row.deleted, *row.values) for row in rows]
        arrays = [list(column) for column in zip(*parameters, strict=True)]
        return {bytes(key) for (key,) in connection.execute(statement, arrays, binary=True)}

    def advance(self, connection: Any, rows: Sequence[OnlineRow]) -> None:
        """Let the rows of these keys follow to these versions."""
        if not rows:
            return
        statement = sql.SQL(
            "update {table} as kept set followed = moved.version, followed_us = moved.us from (select kept.entity_key, "
            "moved.version, moved.us from unnest(%b::bytea[], %b::int8[], %b::int8[]) as moved(key, version, us) "
            "join {table} as kept on kept.entity_key = moved.key order by moved.key for update of kept) as moved "
            "where kept.entity_key = moved.entity_key and moved.version >= kept.followed"
        ).format(table=self.name)
        rows = sorted(rows, key=lambda row: row.key)
        connection.execute(statement, [[r.key for r in rows], [r.version for r in rows], [r.event_us for r in rows]])

    def select(
        self,
        connection: Any,
        columns: Sequence[str],
        where: sql.Composable,
        parameters: Sequence[Any],
        own_versions: bool = False,
    ) -> list[OnlineRow]:
        """Rows with the versions that they have followed to or were written under."""
        version, deleted = sql.Identifier(VERSION), sql.Identifier(DELETED)
        if own_versions:
            guard = sql.SQL("entity_key, {}, {}, event_us").format(version, deleted)
        else:
            guard = sql.SQL(
                "entity_key, greatest({0}, followed), {1}, case when followed >= {0} then followed_us else event_us end"
            ).format(version, deleted)
        names = sql.SQL(", ").join([guard, *map(sql.Identifier, columns)])
        statement = sql.SQL("select {} from {} where {}").format(names, self.name, where)
        return [
            OnlineRow(r[0], r[1], r[2], r[3], r[4:]) for r in connection.execute(statement, parameters, binary=True)
        ]


def _identifiers(names: Sequence[str]) -> sql.Composable:
    return sql.SQL(", ").join(map(sql.Identifier, names))


def _make(connection: Any, table: _Table) -> None:
    query = sql.SQL("select attname from pg_attribute where attrelid = to_regclass({}) and attnum > 0").format(
        table.name.as_string(connection)
    )
    there = {name for (name,) in connection.execute(query)}
    if there and not there.issuperset({*_OWN_COLUMNS, VERSION, DELETED}):
        raise StoreStateError(
            f"Table {table.name.as_string(connection)} was made by another kind of online store: name another "
            "database or schema."
        )
    connection.execute(
        sql.SQL(
            "create table if not exists {} (entity_key bytea primary key, event_us int8 not null, {} int8 not null, "
            "{} bool not null, followed int8 not null default {}, followed_us int8 not null default 0)"
        ).format(table.name, sql.Identifier(VERSION), sql.Identifier(DELETED), -(2**63))
    )
    for column in table.columns:
        if column not in there:
            connection.execute(
                sql.SQL("alter table {} add column if not exists {} bytea").format(table.name, sql.Identifier(column))
            )


@contextmanager
def _translated(config: Any) -> Iterator[None]:
    """psycopg's errors as ours, without the password that some of them quote."""
    schema = config.online_store.db_schema
    try:
        yield
    except (errors.LockNotAvailable, errors.QueryCanceled) as error:
        raise StoreBusyError(
            f"PostgreSQL kept us waiting for another writer for {config.online_store.lock_timeout_s:g} s: end that "
            "writer, or raise online_store.lock_timeout_s."
        ) from error
    except (errors.UndefinedTable, errors.UndefinedColumn) as error:
        raise StoreStateError(
            f"PostgreSQL, schema {schema}: {error}. Register the view first: `feast apply`."
        ) from error
    except (errors.InvalidSchemaName, errors.InsufficientPrivilege) as error:
        raise StoreStateError(f"PostgreSQL, {schema}: {error}. Make the schema, and grant its use.") from error
    except psycopg.OperationalError as error:
        raise StoreStateError(f"PostgreSQL cannot be used: {str(error).strip()}") from error

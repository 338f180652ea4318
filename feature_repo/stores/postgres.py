"""A PostgreSQL online store for Feast in which the newest version of a product always wins.

Feast's own PostgreSQL store overwrites newer values with late ones, keeps one row per feature, and fails after one text
with a NUL byte until it is restarted. This store keeps one row per product and view. The rules of all guarded
stores are in `feature_repo.stores.base`. PostgreSQL's part:

* Each view is written by one statement, which gets the rows as binary arrays. PostgreSQL checks `where` again on the
  row that it has locked, so two writers cannot both pass the guard.
* Rows are written in key order: two writers of the same products wait for each other and do not deadlock. If the server
  still aborts one (a deadlock with other clients, a failover), the transaction is retried.
* The version that a row has followed to is a column of its own. Large values are stored out of line (TOAST), so a new
  version does not rewrite them.
* Values are `bytea`: a NUL byte is a byte like any other.
* Each thread has one connection, and a child process opens its own. The next call reopens a broken connection.

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
from typing import Final, Literal, LiteralString, TypeVar

import psycopg
from feast import Entity, FeatureView, RepoConfig
from feast.infra.online_stores.helpers import compute_table_id
from feast.infra.online_stores.vector_store import VectorStoreConfig
from feast.repo_config import FeastConfigBaseModel
from psycopg import errors, sql
from psycopg.rows import tuple_row
from pydantic import SecretStr, field_validator

from feature_repo.definitions import DELETED, VERSION
from feature_repo.errors import InvalidFeatureError, StoreBusyError, StoreStateError
from feature_repo.online_row import OnlineRow, newest_of_each_key, payload_columns
from feature_repo.stores.base import PAGE_ROWS, GuardedOnlineStore, ViewColumns, ViewRows, check_filled_in

# The columns that a write sets in addition to the features, with their types.
_WRITTEN: Final[tuple[tuple[str, LiteralString], ...]] = (
    ("entity_key", "bytea"),
    ("event_us", "int8"),
    (VERSION, "int8"),
    (DELETED, "bool"),
)
_OWN_COLUMNS: Final = {"entity_key", "event_us", "followed", "followed_us"}
_IDENTIFIER_BYTES: Final = 63  # PostgreSQL truncates longer names, and two views would share a table
_NEVER: Final = -(2**63)  # below every version: the row has not followed any
_TRIES: Final = 5
# The server aborted the statement because of another writer or a failover.
_RETRYABLE: Final = (
    errors.DeadlockDetected,
    errors.SerializationFailure,
    errors.AdminShutdown,
    errors.CannotConnectNow,
)

_Result = TypeVar("_Result")
_Connection = psycopg.Connection[tuple[object, ...]]


class GuardedPostgresOnlineStoreConfig(FeastConfigBaseModel, VectorStoreConfig):
    """Settings below `online_store:` in `feature_store.yaml`."""

    type: Literal["feature_repo.stores.postgres.GuardedPostgresOnlineStore"] = (
        "feature_repo.stores.postgres.GuardedPostgresOnlineStore"
    )
    conninfo: SecretStr
    """A libpq string: `postgresql://user:password@host/database?sslmode=verify-full`, or `host=... dbname=...`."""
    db_schema: str = "public"
    """Schema of the tables; it must exist."""
    lock_timeout_s: float = 30.0
    """How long to wait for rows that another writer has locked, in seconds."""

    @field_validator("conninfo")
    @classmethod
    def _conninfo_is_filled_in(cls, conninfo: SecretStr) -> SecretStr:
        return check_filled_in("conninfo", conninfo)


class GuardedPostgresOnlineStore(GuardedOnlineStore):
    """Feast online store over PostgreSQL, ordered by version; see the module's docstring. Threads may share one."""

    def __init__(self) -> None:
        self._local = threading.local()
        self._open: weakref.WeakSet[_Session] = weakref.WeakSet()
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
        keep = [_Table.of(config, view) for view in tables_to_keep]
        drop = [_Table.of(config, view) for view in tables_to_delete]

        def work(connection: _Connection) -> None:
            # Two processes that make the same table at once would fail on the system catalogue.
            connection.execute("select pg_advisory_xact_lock(hashtext('feature_repo.stores.postgres'))")
            for table in keep:
                _make(connection, table)
            for table in drop:
                connection.execute(sql.SQL("drop table if exists {}").format(table.name))

        self._transaction(config, work)

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
        tables = [(_Table.of(config, view), newest_of_each_key(rows), rows) for view, rows in batches]
        others = [_Table.of(config, view) for view in advance]

        def work(connection: _Connection) -> list[set[bytes]]:
            refused = []
            for table, newest, rows in tables:
                written = table.upsert(connection, newest, equal, repair)
                refused.append({row.key for row in rows} - written)
                moved = [row for row in newest if row.key in written]
                for other in others:
                    other.advance(connection, moved)
            return refused

        return self._transaction(config, work)

    def read(
        self,
        config: RepoConfig,
        columns: Sequence[ViewColumns],
        keys: Collection[bytes],
        *,
        own_versions: bool = False,
    ) -> list[dict[bytes, OnlineRow]]:
        """Read rows of several views as of one time; see `GuardedOnlineStore.read`."""
        keys = list(dict.fromkeys(keys))
        tables = [(_Table.of(config, view), names) for view, names in columns]

        def work(connection: _Connection) -> list[dict[bytes, OnlineRow]]:
            where = sql.SQL("entity_key = any(%b)")
            results = []
            for table, names in tables:
                rows = table.select(connection, names, where, [keys], own_versions)
                results.append({row.key: row for row in rows})
            return results

        # One snapshot for all views: each statement of a plain transaction would see its own.
        return self._transaction(config, work, "set transaction isolation level repeatable read, read only")

    def page(
        self, config: RepoConfig, view: FeatureView, columns: Sequence[str], after: bytes = b"", limit: int = PAGE_ROWS
    ) -> list[OnlineRow]:
        """Read the next `limit` live rows after the key `after`, in key order."""
        table = _Table.of(config, view)
        where = sql.SQL("entity_key > %b and not {} order by entity_key limit %b").format(sql.Identifier(DELETED))
        return self._transaction(config, lambda connection: table.select(connection, columns, where, [after, limit]))

    def tables(self, config: RepoConfig, prefix: str) -> list[str]:
        """Return the sorted names of the views that have a table and begin with `prefix`."""
        start = f"{config.project}_"
        query = (
            "select c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace "
            "join pg_attribute a on a.attrelid = c.oid and a.attname = 'followed_us' "
            "where n.nspname = %s and c.relkind = 'r' and starts_with(c.relname, %s)"
        )
        parameters = (config.online_store.db_schema, start + prefix)
        rows = self._transaction(config, lambda connection: connection.execute(query, parameters).fetchall())
        return sorted(str(name).removeprefix(start) for (name,) in rows)

    def count(self, config: RepoConfig, view: FeatureView) -> int:
        """Count the rows of a view, tombstones included."""
        query = sql.SQL("select count(*) from {}").format(_Table.of(config, view).name)
        return self._transaction(config, lambda connection: int(str(_single(connection.execute(query)))))

    def identity(self, config: RepoConfig, view: FeatureView) -> str:
        """Return the random name that a view's table gets once.

        It is a comment on the table and is dropped with it. `truncate` keeps it: run `materialize --full` then.
        """
        name = _Table.of(config, view).name

        def work(connection: _Connection) -> str:
            query = sql.SQL("select obj_description({}::regclass)").format(name.as_string(connection))
            identity = _single(connection.execute(query))
            if not identity:
                identity = uuid.uuid4().hex
                connection.execute(sql.SQL("comment on table {} is {}").format(name, identity))
            return str(identity)

        return self._transaction(config, work)

    def disconnect(self) -> None:
        """Close every connection of this process."""
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

    def _connection(self, config: RepoConfig) -> _Connection:
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

    def _transaction(
        self, config: RepoConfig, work: Callable[[_Connection], _Result], begin: LiteralString | None = None
    ) -> _Result:
        """Run `work` in one transaction; roll it back on any exception, and retry it when the server aborted it."""
        for attempt in range(1, _TRIES + 1):
            with _translated(config):
                fresh = getattr(self._local, "session", None) is None
                connection = self._connection(config)
                try:
                    with connection.transaction():
                        if begin:
                            connection.execute(begin)
                        return work(connection)
                except _RETRYABLE:
                    if attempt == _TRIES:
                        raise
                except psycopg.OperationalError:
                    # The connection broke since the last call. The commit of a write may have succeeded: to write it
                    # again changes nothing.
                    if not connection.broken or fresh or attempt == _TRIES:
                        raise
                if connection.broken:
                    connection.close()
        raise AssertionError("the last attempt returns or raises")


# Connections of the parent process. A reference keeps the garbage collector from closing them.
_INHERITED: list[_Session] = []


class _Session:
    """One thread's connection; it is closed when the thread ends."""

    def __init__(self, connection: _Connection) -> None:
        self.connection = connection
        weakref.finalize(self, connection.close).atexit = False


@dataclass(frozen=True)
class _Table:
    """A view's table and the statements over it. In all of them, `stored` is a row of this table."""

    name: sql.Identifier
    columns: tuple[str, ...]

    @classmethod
    def of(cls, config: RepoConfig, view: FeatureView) -> _Table:
        """Return the table of a view.

        Raises:
            InvalidFeatureError: A name is too long for PostgreSQL, or the store has its own column of this name.
        """
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

    def upsert(self, connection: _Connection, rows: Sequence[OnlineRow], equal: bool, repair: bool) -> set[bytes]:
        """Write the rows that pass the guard and return their keys.

        Args:
            connection: The connection.
            rows: At most one row per key.
            equal: Whether a row of an equal version passes.
            repair: Whether to compare only with the version that a stored row was written under.
        """
        if not rows:
            return set()
        rows = sorted(rows, key=lambda row: row.key)
        parameters = [(row.key, row.event_us, row.version, row.deleted, *row.values) for row in rows]
        arrays = [list(column) for column in zip(*parameters, strict=True)]
        written = connection.execute(self._upsert_statement(equal, repair), arrays, binary=True)
        return {bytes(row[0]) for row in written if isinstance(row[0], bytes)}

    def _upsert_statement(self, equal: bool, repair: bool) -> sql.Composed:
        names = [*(name for name, _ in _WRITTEN), *self.columns]
        bytea: LiteralString = "bytea"
        types = [*(kind for _, kind in _WRITTEN), *[bytea] * len(self.columns)]
        assignments = [sql.SQL("{0} = excluded.{0}").format(sql.Identifier(name)) for name in names[1:]]
        stored_version = sql.SQL("stored.{0}" if repair else "greatest(stored.{0}, stored.followed)")
        return sql.SQL(
            "insert into {table} as stored ({names}) select * from unnest({arrays}) on conflict (entity_key) do update "
            "set {assignments} where excluded.{version} {comparison} {stored_version} returning entity_key"
        ).format(
            table=self.name,
            names=_identifiers(names),
            arrays=sql.SQL(", ").join(sql.SQL("%b::" + kind + "[]") for kind in types),
            assignments=sql.SQL(", ").join(assignments),
            version=sql.Identifier(VERSION),
            comparison=sql.SQL(">=" if equal else ">"),
            stored_version=stored_version.format(sql.Identifier(VERSION)),
        )

    def advance(self, connection: _Connection, rows: Sequence[OnlineRow]) -> None:
        """Let the existing rows of these keys follow to these versions."""
        if not rows:
            return
        # The inner select locks the rows in key order, as `upsert` does.
        statement = sql.SQL(
            "update {table} as stored set followed = moved.version, followed_us = moved.us "
            "from (select stored.entity_key, moved.version, moved.us "
            "from unnest(%b::bytea[], %b::int8[], %b::int8[]) as moved(key, version, us) "
            "join {table} as stored on stored.entity_key = moved.key order by moved.key for update of stored) as moved "
            "where stored.entity_key = moved.entity_key and moved.version >= stored.followed"
        ).format(table=self.name)
        rows = sorted(rows, key=lambda row: row.key)
        connection.execute(statement, [[r.key for r in rows], [r.version for r in rows], [r.event_us for r in rows]])

    def select(
        self,
        connection: _Connection,
        columns: Sequence[str],
        where: sql.Composable,
        parameters: Sequence[bytes | int | list[bytes]],
        own_versions: bool = False,
    ) -> list[OnlineRow]:
        """Read rows with the versions that they have followed to, or were written under with `own_versions`."""
        version, deleted = sql.Identifier(VERSION), sql.Identifier(DELETED)
        if own_versions:
            guard = sql.SQL("entity_key, {}, {}, event_us").format(version, deleted)
        else:
            guard = sql.SQL(
                "entity_key, greatest({0}, followed), {1}, case when followed >= {0} then followed_us else event_us end"
            ).format(version, deleted)
        names = sql.SQL(", ").join([guard, *map(sql.Identifier, columns)])
        statement = sql.SQL("select {} from {} where {}").format(names, self.name, where)
        cursor = connection.cursor(binary=True, row_factory=tuple_row)
        return [OnlineRow(row[0], row[1], row[2], row[3], row[4:]) for row in cursor.execute(statement, parameters)]


def _identifiers(names: Sequence[str]) -> sql.Composable:
    return sql.SQL(", ").join(map(sql.Identifier, names))


def _single(cursor: psycopg.Cursor[tuple[object, ...]]) -> object:
    """Return the only value of the only row."""
    row = cursor.fetchone()
    assert row is not None
    return row[0]


def _make(connection: _Connection, table: _Table) -> None:
    """Make a table, or add the columns of new features."""
    query = sql.SQL("select attname from pg_attribute where attrelid = to_regclass({}) and attnum > 0").format(
        table.name.as_string(connection)
    )
    existing = {name for (name,) in connection.execute(query)}
    if existing and not existing.issuperset({*_OWN_COLUMNS, VERSION, DELETED}):
        raise StoreStateError(
            f"Table {table.name.as_string(connection)} was made by another kind of online store: name another "
            "database or schema."
        )
    connection.execute(
        sql.SQL(
            "create table if not exists {} (entity_key bytea primary key, event_us int8 not null, {} int8 not null, "
            "{} bool not null, followed int8 not null default {}, followed_us int8 not null default 0)"
        ).format(table.name, sql.Identifier(VERSION), sql.Identifier(DELETED), _NEVER)
    )
    for column in table.columns:
        if column not in existing:
            connection.execute(
                sql.SQL("alter table {} add column if not exists {} bytea").format(table.name, sql.Identifier(column))
            )


@contextmanager
def _translated(config: RepoConfig) -> Iterator[None]:
    """Convert psycopg's errors to this package's, without the password that some of them contain."""
    schema = config.online_store.db_schema
    try:
        yield
    except (errors.LockNotAvailable, errors.QueryCanceled) as error:
        raise StoreBusyError(
            f"Another writer held PostgreSQL rows for {config.online_store.lock_timeout_s:g} s: end that writer, "
            "or raise online_store.lock_timeout_s."
        ) from error
    except (errors.UndefinedTable, errors.UndefinedColumn) as error:
        raise StoreStateError(
            f"PostgreSQL, schema {schema}: {error}. Register the view first: `feast apply`."
        ) from error
    except (errors.InvalidSchemaName, errors.InsufficientPrivilege) as error:
        raise StoreStateError(f"PostgreSQL, {schema}: {error}. Make the schema, and grant its use.") from error
    except psycopg.OperationalError as error:
        raise StoreStateError(f"PostgreSQL cannot be used: {str(error).strip()}") from error

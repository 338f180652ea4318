"""SQLAlchemy engines for the store: real transactions, and SQLite's settings for a database in production use."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy import Connection, Engine, event, text

from experiments.errors import SchemaError

DIALECTS: Final = ("sqlite", "postgresql")
"""The supported databases."""

_WRITE: Final = "sagelift_write"
_LOCK_KEY: Final = 0x5361_6765_4C69_6674  # any number that no other program locks in this database; "SageLift"
_SQLITE_PRAGMAS: Final = (
    "pragma busy_timeout = 30000",  # a second writer waits for the first one and does not fail at once
    "pragma journal_mode = wal",  # a report reads while the sink writes
    # A crash of the machine may undo the last transactions, rows together with offsets: the sink reads them again.
    "pragma synchronous = normal",
    "pragma foreign_keys = on",
)


def prepare_engine(engine: Engine) -> None:
    """Set up an engine. Call it before the first connection, which would keep SQLite's defaults.

    Args:
        engine: A fresh engine.

    Raises:
        SchemaError: The database is neither SQLite nor PostgreSQL.
    """
    if engine.dialect.name not in DIALECTS:
        raise SchemaError(f"{engine.dialect.name} is not supported by this store; use {' or '.join(DIALECTS)}.")
    if engine.dialect.name == "sqlite" and not event.contains(engine, "connect", _on_sqlite_connect):
        event.listen(engine, "connect", _on_sqlite_connect)
        event.listen(engine, "begin", _on_sqlite_begin)


def _on_sqlite_connect(connection: Any, _record: Any) -> None:
    # The driver begins transactions late (after reads), and not before DDL: `_on_sqlite_begin` begins them.
    connection.isolation_level = None
    for pragma in _SQLITE_PRAGMAS:
        connection.execute(pragma).close()


def _on_sqlite_begin(connection: Connection) -> None:
    # A transaction that reads first and writes later fails when another one wrote in between. A transaction that
    # takes the write lock at its beginning waits for its turn.
    writes = connection.get_execution_options().get(_WRITE, False)
    connection.exec_driver_sql("begin immediate" if writes else "begin")


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """Open a transaction that writes."""
    with engine.execution_options(**{_WRITE: True}).begin() as connection:
        yield connection


@contextmanager
def exclusive(engine: Engine) -> Iterator[Connection]:
    """Open a transaction that writes and excludes other `exclusive` ones, for rules that span rows (layers, salts)."""
    with writing(engine) as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY})
        yield connection

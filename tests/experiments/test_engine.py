"""Engines begin real transactions: a writer takes its lock first, and rolls back on an error."""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, create_engine, text

from experiments.engine import exclusive, prepare_engine, writing
from experiments.errors import SchemaError

Transaction = Callable[[Engine], AbstractContextManager[Connection]]


class UnsupportedEngine:
    """An engine of a database that the store does not support."""

    class dialect:
        name = "mysql"


def rows(engine: Engine) -> list[int]:
    with engine.begin() as connection:
        return list(connection.scalars(text("select n from numbers order by n")))


@pytest.fixture
def engine(connect: Callable[[], Engine]) -> Engine:
    engine = connect()
    prepare_engine(engine)
    with writing(engine) as connection:
        connection.execute(text("create table numbers (n integer)"))
    return engine


def test_other_databases_are_refused_with_the_names_of_the_supported_ones() -> None:
    with pytest.raises(SchemaError, match="mysql is not supported by this store; use sqlite or postgresql"):
        prepare_engine(UnsupportedEngine())  # type: ignore[arg-type]


def test_sqlite_waits_for_other_writers_and_enforces_foreign_keys(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'database.db'}")
    prepare_engine(engine)
    prepare_engine(engine)  # a second call must not begin transactions twice
    with engine.begin() as connection:
        pragmas = {
            name: connection.execute(text(f"pragma {name}")).scalar_one()
            for name in ("journal_mode", "busy_timeout", "foreign_keys")
        }
    engine.dispose()
    assert pragmas == {"journal_mode": "wal", "busy_timeout": 30_000, "foreign_keys": 1}


@pytest.mark.parametrize("transaction", [writing, exclusive])
def test_an_error_rolls_the_whole_transaction_back(engine: Engine, transaction: Transaction) -> None:
    def fail_after_a_write() -> None:
        with transaction(engine) as connection:
            connection.execute(text("insert into numbers values (1)"))
            raise InterruptedError

    with pytest.raises(InterruptedError):
        fail_after_a_write()
    assert rows(engine) == []


def test_exclusive_transactions_that_read_and_then_write_never_overlap(engine: Engine) -> None:
    def add() -> None:
        for _ in range(5):
            with exclusive(engine) as connection:
                largest = connection.execute(text("select coalesce(max(n), 0) from numbers")).scalar_one()
                connection.execute(text("insert into numbers values (:n)"), {"n": largest + 1})

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert rows(engine) == list(range(1, 21))

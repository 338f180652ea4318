"""A table of a database gives the numbers of every other source."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from analysis.aggregates import Aggregates
from analysis.columns import Filter
from analysis.errors import DataError, MissingColumnError, SourceError
from analysis.metrics import Mean
from analysis.sources import SqlTable
from tests.analysis.sources.builders import METRICS, OPTIONS, collect, same, write_sql


@pytest.mark.integration
def test_postgresql_gives_the_same_numbers(postgresql: str, data: pd.DataFrame, expected: Aggregates) -> None:
    engine = write_sql(data, postgresql)
    try:
        same(collect(SqlTable(engine, "users", **OPTIONS)), expected)
        instants = replace(SqlTable(engine, "users", **OPTIONS), table="timed")
        with engine.begin() as connection:
            connection.exec_driver_sql(
                "CREATE VIEW timed AS SELECT u.*, (day + TIME '23:30') AT TIME ZONE 'UTC' AS first FROM users u"
            )
        collected = collect(replace(instants, day="first", covariate_until=None))
        assert collected.days == expected.days
    finally:
        engine.dispose()


def test_a_database_says_what_is_wrong(data: pd.DataFrame, tmp_path: Path) -> None:
    engine = write_sql(data.assign(spent=None), f"sqlite:///{tmp_path / 'u.db'}")
    with pytest.raises(SourceError, match="has no table 'user'"):
        collect(SqlTable(engine, "user"), METRICS[:1])
    with pytest.raises(MissingColumnError, match=r"users has no column 'gmw'\. Did you mean 'gmv'"):
        collect(SqlTable(engine, "users"), (Mean(name="g", column="gmw"),))
    with pytest.raises(DataError, match="'country' is TEXT, and a metric needs numbers"):
        collect(SqlTable(engine, "users"), (Mean(name="g", column="country"),))
    with pytest.raises(DataError, match="3 units have several rows in one arm"):
        collect(SqlTable(engine, "users", unit="currency", where=(Filter("variant", "=", "a"),)), METRICS[:1])


def test_sqlite_refuses_text_in_a_numeric_column(data: pd.DataFrame, tmp_path: Path) -> None:
    """SQLite stores it, and would count it as 0."""
    engine = write_sql(data, f"sqlite:///{tmp_path / 'u.db'}")
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE users SET gmv = '12,50' WHERE user IN ('u1', 'u2')")
    with pytest.raises(DataError, match=r"'gmv' is BIGINT and holds text in 2 rows, for example '12,50'"):
        collect(SqlTable(engine, "users"), METRICS[:1])
    with pytest.raises(DataError, match="holds text in 2 rows"):
        collect(SqlTable(engine, "users", where=(Filter("gmv", ">", 5),)), (Mean(name="v", column="views"),))
    assert collect(SqlTable(engine, "users"), (Mean(name="v", column="views"),)).arms == ("a", "b", "c")

"""The query compiles for SQLite and PostgreSQL (whose SQL DuckDB reads), and its text can be pasted as it stands."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.dialects import postgresql, sqlite

from analysis.aggregates import Column
from analysis.metrics import merged_needs, shop_metrics
from analysis.query import sql_text
from analysis.sources import ExperimentTables


@pytest.mark.parametrize("dialect", [sqlite, postgresql], ids=lambda d: d.__name__.split(".")[-1])
def test_the_statement_compiles_for(dialect: Any, shop: Any) -> None:
    source = ExperimentTables(shop.engine, "x'; DROP TABLE event; --")
    statement = source.statement(merged_needs(shop_metrics()), 10**15, timedelta(days=1))
    text = sql_text(statement, dialect.dialect())
    assert "%%" not in text
    assert ":" not in text.replace("::", "")
    assert "x''; DROP TABLE event; --" in text  # a quote in a name stays inside the string


def test_the_text_gives_the_rows_of_the_statement(filled_shop: Any) -> None:
    """Line breaks and written-out values change nothing; a shift moves the sums as it should."""
    source = ExperimentTables(filled_shop.engine, "ranking")
    needs = merged_needs(shop_metrics())
    statement = source.statement(needs, 2 * 10**15, timedelta(days=1), {Column("clicks"): 1.5})
    with filled_shop.engine.connect() as connection:
        rows = [tuple(row) for row in connection.execute(statement)]
        again = [tuple(row) for row in connection.exec_driver_sql(sql_text(statement, filled_shop.engine.dialect))]
    assert len(rows) > 10
    assert sorted(rows) == sorted(again)


def test_postgres_text_means_the_same_to_duckdb(filled_shop: Any) -> None:
    """The tables copied to DuckDB, the PostgreSQL text run there: the same cells as SQLite's."""
    import duckdb
    import pandas as pd

    source = ExperimentTables(filled_shop.engine, "ranking")
    statement = source.statement(merged_needs(shop_metrics()), 2 * 10**15, timedelta(days=1))
    with filled_shop.engine.connect() as connection, duckdb.connect() as duck:
        for name in ("first_exposure", "event", "order_event"):
            frame = pd.read_sql(f"SELECT * FROM {name}", connection)  # noqa: F841 (DuckDB finds it by its name)
            duck.execute(f"CREATE TABLE {name} AS SELECT * FROM frame")
        ours = sorted(tuple(row) for row in connection.execute(statement))
        theirs = sorted(duck.execute(sql_text(statement, postgresql.dialect())).fetchall())
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine[0] == other[0]
        assert mine[1:-2] == pytest.approx([float(value) for value in other[1:-2]], rel=1e-12)


@pytest.mark.parametrize(
    ("name", "module", "dialect"),
    [
        ("Snowflake", "snowflake.sqlalchemy.snowdialect", "SnowflakeDialect"),
        ("BigQuery", "sqlalchemy_bigquery", "BigQueryDialect"),
        ("Databricks", "databricks.sqlalchemy", "DatabricksDialect"),
    ],
)
def test_the_statement_compiles_for_a_warehouse_where_its_dialect_is_installed(
    name: str, module: str, dialect: str, shop: Any
) -> None:
    """Written and compiled only: no such warehouse is at hand to run it."""
    found = pytest.importorskip(module, exc_type=ImportError)
    source = ExperimentTables(shop.engine, "ranking")
    text = sql_text(
        source.statement(merged_needs(shop_metrics()), 10**15, timedelta(days=1)), getattr(found, dialect)()
    )
    assert "GROUP BY" in text
    if name == "BigQuery":
        assert " % " not in text  # it has MOD and no such operator

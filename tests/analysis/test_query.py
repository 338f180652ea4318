"""The query compiles for SQLite and PostgreSQL (whose SQL DuckDB reads), and its text can be pasted as it stands."""

import re
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import column, select, table
from sqlalchemy.dialects import postgresql, sqlite

from analysis.aggregates import Column
from analysis.columns import Cap, Filter, Limits, Window
from analysis.metrics import Mean, merged_needs, shop_metrics
from analysis.query import epoch_day, frequency_select, quantile_select, ranks_select, sql_text
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
    """Line breaks and literal values change no result; a shift changes the sums accordingly."""
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
        ("Spark", "analysis.sources.spark_frame", "SparkDialect"),
    ],
)
def test_the_statements_compile_for_a_warehouse_where_its_dialect_is_installed(
    name: str, module: str, dialect: str, shop: Any
) -> None:
    """The statements are only compiled: there is no such warehouse to run them. Spark runs them in another test."""
    result = pytest.importorskip(
        module, reason=f"the SQLAlchemy dialect of {name} is not installed", exc_type=ImportError
    )
    made = getattr(result, dialect)()
    days = Window(timedelta(days=3), timedelta(days=7))
    metrics = [
        *shop_metrics(),
        Mean(name="capped", column="gmv_net", cap=Cap(upper_quantile=0.99, nonzero=True)),
        Mean(name="home", column="clicks", where=(Filter("surface", "=", "home"),), window=days),
    ]
    needs = merged_needs(metrics)
    limits = {column: Limits(None, 5.0) for column in needs.capped}
    source = ExperimentTables(shop.engine, "ranking", segments=("customer", "country"))
    text = sql_text(source.statement(needs, 10**15, timedelta(days=1), limits=limits), made)
    users = table("users", column("arm"), column("day"), column("x"))
    day = select(users.c.arm, (epoch_day(users.c.day) * 86400).label("day")).select_from(users)
    parts = [
        text,
        sql_text(quantile_select(users, Column("x"), 0.9, 100, nonzero=True), made),
        sql_text(ranks_select(users, Column("x"), {"a": [1, 2]}), made),
        sql_text(frequency_select(users, [Column("x")]), made),
        sql_text(day, made),
    ]
    assert "GROUP BY" in text
    assert "unix" in parts[-1].lower() or "epoch" in parts[-1].lower()
    if name == "BigQuery":
        assert " % " not in text  # it has MOD and no such operator
        assert set(re.findall(r"`[^`]*`", text)) == set(re.findall(r"`\w+`", text))  # letters, digits, _ only
    for label in re.findall(r" AS [`\"]?(c_\w+)", text):  # what is named is what is read
        assert len(re.findall(rf"[`\".]{label}\b", text)) >= 2

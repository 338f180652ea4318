"""The draws as SQL expressions, which the specification shows."""

import sqlite3
from pathlib import Path
from typing import get_args

import duckdb

from experiments import warehouse_sql

SPEC = (Path(__file__).parents[2] / "docs" / "reference" / "assignment-spec.md").read_text("utf-8")


def test_sql_of_a_missing_unit_is_null() -> None:
    """A NULL unit has no bucket in SQL either (U1)."""
    expression = warehouse_sql.bucket_sql("duckdb", "gate", salt="s", unit="null::varchar")
    with duckdb.connect() as connection:
        connection.execute(warehouse_sql.GB2_FUNCTIONS["duckdb"])
        assert connection.execute(f"select {expression}, gb2_bucket('s', null)").fetchone() == (None, None)
    plain = sqlite3.connect(":memory:")
    warehouse_sql.register_sqlite(plain)
    assert plain.execute("select gate_bucket('s', null), gb2_bucket('s', null)").fetchone() == (None, None)
    plain.close()


def test_a_quote_in_a_salt_stays_inside_the_literal() -> None:
    assert "'it''s'" in warehouse_sql.bucket_sql("duckdb", "gate", salt="it's", unit="u")


def test_the_documented_sql_is_the_sql_that_runs() -> None:
    """docs/reference/assignment-spec.md shows, character for character, what `bucket_sql` writes."""
    for dialect in get_args(warehouse_sql.Dialect):
        for draw in ("gate", "split"):
            expression = warehouse_sql.bucket_sql(dialect, draw, salt="SALT", unit="unit_id")
            assert expression in SPEC, expression
    for text in warehouse_sql.GB2_FUNCTIONS.values():
        assert text in SPEC

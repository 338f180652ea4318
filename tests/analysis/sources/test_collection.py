"""All statements of a report see the same data despite concurrent writes; each database gives the same report."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.exc import DBAPIError

from analysis.columns import Cap
from analysis.metrics import Mean, Quantile, merged_needs, shop_metrics
from analysis.report import analyze
from analysis.sources import ExperimentTables, SqlTable
from analysis.sources.collection import snapshot

METRICS = [
    Mean(name="gmv", column="gmv", cap=Cap(upper_quantile=0.9, nonzero=True)),
    Quantile(name="median", column="gmv"),
]


@dataclass(eq=False)
class Meddler:
    """Writes to the table that is being read, after each statement of the reader."""

    writer: Engine
    written: int = 0

    def __call__(self, connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if "users" in statement and "unit_values" not in statement:
            with self.writer.begin() as other:
                other.execute(text("INSERT INTO users SELECT variant, gmv + 10000 FROM users LIMIT 50"))
            self.written += 1


def check_one_moment(url: str) -> None:
    reader, writer = create_engine(url), create_engine(url)
    try:
        pd.DataFrame({"variant": ["a", "b"] * 200, "gmv": range(400)}).to_sql("users", writer, index=False)
        if url.startswith("sqlite"):
            with writer.connect() as connection:
                connection.exec_driver_sql("PRAGMA journal_mode = wal")
        before = SqlTable(reader, "users").collect(merged_needs(METRICS)).aggregates
        meddler = Meddler(writer)
        event.listen(reader, "after_cursor_execute", meddler)
        during = SqlTable(reader, "users").collect(merged_needs(METRICS)).aggregates
        assert meddler.written >= 3
        assert during == before
        event.remove(reader, "after_cursor_execute", meddler)
        assert SqlTable(reader, "users").collect(merged_needs(METRICS)).aggregates.count("a") > before.count("a")
    finally:
        with writer.begin() as connection:
            connection.execute(text("DROP TABLE users"))
        reader.dispose()
        writer.dispose()


def test_a_report_reads_one_snapshot_of_sqlite(tmp_path: Path) -> None:
    check_one_moment(f"sqlite:///{tmp_path / 'u.db'}")


@pytest.mark.integration
def test_a_report_reads_one_snapshot_of_postgresql_and_cannot_write(postgresql: str) -> None:
    check_one_moment(postgresql)
    engine = create_engine(postgresql)
    try:
        with pytest.raises(DBAPIError, match="read-only transaction"), snapshot(engine) as connection:
            connection.execute(text("CREATE TABLE x (y INT)"))
        with engine.begin() as connection:  # the pool's connection is as it was
            assert connection.scalar(text("SHOW transaction_isolation")) == "read committed"
    finally:
        engine.dispose()


def copied(source: Engine, url: str) -> Engine:
    """The experiment's tables in another database."""
    engine = create_engine(url)
    with source.connect() as connection, engine.begin() as other:
        for name in ("exposure", "first_exposure", "event", "order_event"):
            frame = pd.read_sql(f"SELECT * FROM {name}", connection)
            types = ["BIGINT" if kind.kind in "iu" else "TEXT" for kind in frame.dtypes]
            columns = ", ".join(f"{column} {kind}" for column, kind in zip(frame.columns, types, strict=True))
            other.execute(text(f"CREATE TABLE {name} ({columns})"))
            marks = ", ".join(f":{column}" for column in frame.columns)
            other.execute(text(f"INSERT INTO {name} VALUES ({marks})"), frame.astype(object).to_dict("records"))
    return engine


def same_report(ours: ExperimentTables, theirs: ExperimentTables) -> None:
    metrics = [*shop_metrics(), METRICS_OF_SHOP]
    reports = [analyze(source, metrics, "control", "treatment") for source in (ours, theirs)]
    for a, b in zip(*(report.metrics for report in reports), strict=True):
        ours_, theirs_ = ([-9 if x is None else x for x in (m.p, m.lift, m.low, m.high, m.control)] for m in (a, b))
        assert ours_ == pytest.approx(theirs_, rel=1e-9)
        assert a.note == b.note
    assert [c.status for c in reports[0].checks] == [c.status for c in reports[1].checks]
    assert reports[0].data.units == reports[1].data.units
    assert reports[0].data.enrolment == reports[1].data.enrolment


METRICS_OF_SHOP = Quantile(name="views", column="impressions", q=0.7)


def test_duckdb_gives_the_report_of_sqlite_over_an_experiments_tables(
    make_shop: Callable[..., None], shop: Any, tmp_path: Path
) -> None:
    pytest.importorskip("duckdb_engine", reason="duckdb-engine, DuckDB's SQLAlchemy dialect, is not installed")
    make_shop(shop, units=150)
    engine = copied(shop.engine, f"duckdb:///{tmp_path / 'shop.duckdb'}")
    try:
        same_report(ExperimentTables(engine, "ranking"), ExperimentTables(shop.engine, "ranking"))
    finally:
        engine.dispose()


@pytest.mark.integration
def test_postgresql_gives_the_report_of_sqlite_over_an_experiments_tables(
    make_shop: Callable[..., None], shop: Any, postgresql: str
) -> None:
    make_shop(shop, units=150)
    engine = copied(shop.engine, postgresql)
    try:
        same_report(ExperimentTables(engine, "ranking"), ExperimentTables(shop.engine, "ranking"))
    finally:
        engine.dispose()

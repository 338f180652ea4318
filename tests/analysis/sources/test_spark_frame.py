"""A Spark frame gives the numbers of every other source, and only aggregates leave Spark."""

from dataclasses import replace
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pytest

from analysis.aggregates import Aggregates
from analysis.columns import Filter
from analysis.errors import DataError, SourceError
from analysis.metrics import Mean, merged_needs
from analysis.sources import SparkFrame
from analysis.sources.spark_frame import SparkSQL
from tests.analysis.sources.builders import METRICS, OPTIONS, collect, same


def test_a_spark_frame_gives_the_same_numbers_and_only_sums_leave_spark(
    spark: Any, data: pd.DataFrame, expected: Aggregates, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[int] = []

    def count(self: Any, statement: Any) -> Any:
        rows = plain(self, statement)
        fetched.append(len(rows))
        return rows

    plain = SparkSQL.rows
    monkeypatch.setattr(SparkSQL, "rows", count)
    source = SparkFrame(spark.createDataFrame(pa.Table.from_pandas(data)).repartition(3), **OPTIONS)
    collected = source.collect(merged_needs(METRICS))
    same(collected.aggregates, expected)
    cells = 3 * 5 * 3  # arms, days, segments
    assert max(fetched) == cells
    assert "FROM `users`" in collected.facts.sql[0]  # not the name that it had only for this report
    assert spark.catalog.listTables() == []


def test_a_spark_frame_cuts_instants_into_utc_days_and_says_what_is_wrong(spark: Any) -> None:
    times = ["2026-06-01T23:59:59Z", "2026-06-02T00:00:00Z", "2026-06-02T01:00:00+02:00"]
    instants = pa.array(pd.to_datetime(times, utc=True))
    table = pa.table({"variant": ["a"] * 3, "x": [1.0, float("nan"), 4.0], "y": [1, 2, None], "first": instants})
    source = SparkFrame(spark.createDataFrame(table), day="first")
    known = collect(replace(source, where=(Filter("y", ">", 0),)), (Mean(name="y", column="y"),))
    assert known.days == (1_780_272_000_000_000, 1_780_358_400_000_000)
    with pytest.raises(DataError, match="x of arm 'a' holds NaN"):
        collect(source, (Mean(name="x", column="x"),))
    with pytest.raises(DataError, match=r"'y' is NULL in 1 row\."):
        collect(source, (Mean(name="y", column="y"),))
    with pytest.raises(DataError, match="'variant' is string, and a metric needs numbers"):
        collect(source, (Mean(name="v", column="variant"),))
    broken = SparkFrame(spark.createDataFrame(table).selectExpr("variant", "CAST(1 / (x - 1) AS DOUBLE) AS x"))
    with pytest.raises(SourceError, match=r"the Spark data frame cannot be read: \[DIVIDE_BY_ZERO\]"):
        collect(broken, (Mean(name="x", column="x"),))

"""Reports as tables: one row per metric, segment or time, with every number of the report."""

from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from analysis.columns import Cap
from analysis.metrics import Count, Mean, Proportion
from analysis.novelty import age_windows
from analysis.render.frame import Part, to_arrow, to_pandas
from analysis.report import Report, analyze
from analysis.sources import ExperimentTables, UserTable


def report(*, cells: bool) -> Report:
    rng = np.random.default_rng(0)
    data = pd.DataFrame({"variant": rng.choice(["a", "b"], 900), "x": rng.lognormal(0, 1, 900)})
    data["pre"], data["country"] = data.x + rng.normal(0, 1, 900), rng.choice(["de", "fr"], 900)
    data["day"] = [date(2026, 6, 1 + int(d)) for d in rng.integers(0, 3, 900)]
    metrics = [Mean(name="x", column="x", covariate="pre", cap=Cap(upper=5)), Proportion(name="all", column="x")]
    source = UserTable(data, day="day", segment="country") if cells else UserTable(data)
    return analyze(source, metrics, "a", "b", planned_units=2000)


def test_a_row_per_metric_holds_what_the_report_holds() -> None:
    made = report(cells=True)
    frame = to_pandas(made).set_index("name")
    x = made.metric("x")
    assert x.unadjusted is not None
    assert x.cap is not None
    assert frame.loc["x", "lift"] == x.lift
    assert frame.loc["x", "unadjusted_p"] == x.unadjusted.p
    assert frame.loc["x", "cap_upper"] == 5
    assert frame.loc["x", "n_control"] == x.n_control
    assert np.isnan(frame.loc["all", "lift"])  # everyone has a value: nothing varies
    assert to_arrow(made).to_pylist()[1]["lift"] is None


def test_a_row_per_metric_and_age_holds_what_the_report_holds(filled_shop: Any) -> None:
    ages = age_windows(timedelta(days=4), timedelta(days=2))
    source = ExperimentTables(filled_shop.engine, "ranking", window=timedelta(days=4))
    made = analyze(source, [Count(name="clicks", column="clicks")], "control", "treatment", ages=ages)
    rows = to_arrow(made, "ages").to_pylist()
    assert [(row["metric"], row["start_days"], row["end_days"]) for row in rows] == [("clicks", 0, 2), ("clicks", 2, 4)]
    assert [row["lift"] for row in rows] == [age.lift for age in made.metric("clicks").ages]
    assert to_arrow(made).to_pylist()[0]["novelty_p"] == made.metric("clicks").novelty.p  # type: ignore[union-attr]
    assert to_arrow(report(cells=False), "ages").num_rows == 0


@pytest.mark.parametrize(("part", "rows"), [("metrics", 2), ("segments", 4), ("cumulative", 6)])
def test_the_columns_are_the_same_however_many_rows(part: Part, rows: int) -> None:
    full, empty = to_arrow(report(cells=True), part), to_arrow(report(cells=False), part)
    assert full.schema == empty.schema
    assert full.num_rows == rows
    assert empty.num_rows == (2 if part == "metrics" else 0)
    assert full.schema.field("n_control").type == pa.int64()
    assert full.schema.field("lift").type == pa.float64()
    if part != "metrics":
        assert full.column("metric").to_pylist() == [name for name in ("x", "all") for _ in range(rows // 2)]

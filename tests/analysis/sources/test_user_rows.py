"""One row per user, from any place: the same numbers to 1e-9 with every feature in use."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pytest

from analysis.aggregates import Aggregates, Column, Rank
from analysis.columns import Filter, Window
from analysis.errors import DataError, MissingColumnError
from analysis.metrics import Mean, Ratio, Retention, merged_needs
from analysis.sources import SqlTable, UserTable
from analysis.sources.user_rows import UserRows
from tests.analysis.sources.builders import METRICS, OPTIONS, P99, collect, same, write_sql


def test_what_is_compared_holds_every_feature(expected: Aggregates, data: pd.DataFrame) -> None:
    """The reference itself, against pandas: filters, rates, caps, sign, quantiles, cells."""
    used = data[data.views > 2]
    factor = used.currency.map({"EUR": 1.0, "USD": 0.92, "JPY": 0.61})
    gmv = used.gmv * factor
    buyers = np.sort(gmv[gmv != 0])
    limit = buyers[int(np.ceil(0.99 * buyers.size - 1e-9)) - 1]
    capped = Column("gmv", cap=P99)
    assert expected.limits[capped].upper == pytest.approx(limit, rel=1e-12)
    for arm in "abc":
        mine = used.variant == arm
        m = expected.moments(arm)
        assert m.means[Column("gmv")] == pytest.approx(gmv[mine].mean(), rel=1e-12)
        assert m.means[capped] == pytest.approx(gmv[mine].clip(upper=limit).mean(), rel=1e-12)
        assert m.variance(capped) == pytest.approx(gmv[mine].clip(upper=limit).var(), rel=1e-9)
        assert expected.capped(capped, arm) == (gmv[mine] > limit).sum()
        assert m.means[Column("member", positive=True)] == pytest.approx(used.member[mine].mean())
        german = used.clicks.where(used.country.isin(["de", "it's"]), 0)
        ratio = METRICS[4]
        assert isinstance(ratio, Ratio)
        assert m.means[ratio.inputs[0]] == pytest.approx(german[mine].mean(), rel=1e-12)
        median = expected.ranked[arm, Rank(Column("spent"), 0.5, 1.96)].values[1]
        assert median == np.sort(used.spent[mine])[int(np.ceil(mine.sum() / 2)) - 1]
    assert expected.segments == ("de", "fr", "it's")
    assert len(expected.days) == 5


@pytest.mark.parametrize(
    "kind", ["parquet", "csv", "csv.gz", "feather", "arrow", "duckdb", "parts", "sqlite", "duckdb engine"]
)
def test_every_source_gives_the_same_numbers(
    kind: str, data: pd.DataFrame, expected: Aggregates, tmp_path: Path
) -> None:
    table, path = pa.Table.from_pandas(data), tmp_path / f"users.{kind}"
    source: UserRows
    if kind == "parquet":
        data.to_parquet(path)
        source = UserTable(path, **OPTIONS)
    elif kind.startswith("csv"):
        data.to_csv(path, index=False)
        source = UserTable(path, **OPTIONS)
    elif kind == "feather":
        pyarrow.feather.write_feather(table, path)
        source = UserTable(path, **OPTIONS)
    elif kind == "arrow":
        source = UserTable(table, **OPTIONS)
    elif kind == "duckdb":
        import duckdb

        with duckdb.connect(str(path)) as connection:
            connection.execute("CREATE TABLE users AS SELECT * FROM data")
        source = UserTable(path, table="users", **OPTIONS)
    elif kind == "parts":
        for part in range(3):  # other files, in another order
            data.iloc[2 - part :: 3].to_parquet(tmp_path / f"part{part}.parquet")
        source = UserTable(tmp_path / "part*.parquet", **OPTIONS)
    else:
        if kind != "sqlite":
            pytest.importorskip("duckdb_engine", reason="duckdb-engine, DuckDB's SQLAlchemy dialect, is not installed")
        engine = write_sql(data, f"{kind.split()[0]}:///{path}")
        source = SqlTable(engine, "users", **OPTIONS)
        same(collect(source), expected)
        engine.dispose()
    same(collect(source), expected)


def test_a_polars_frame_gives_the_same_numbers(data: pd.DataFrame, expected: Aggregates) -> None:
    polars = pytest.importorskip("polars")
    same(collect(UserTable(polars.from_arrow(pa.Table.from_pandas(data)), **OPTIONS)), expected)
    same(collect(UserTable(polars.from_arrow(pa.Table.from_pandas(data)).lazy(), **OPTIONS)), expected)


def test_neither_rows_nor_labels_in_another_order_change_anything(data: pd.DataFrame, expected: Aggregates) -> None:
    same(collect(UserTable(data.iloc[::-1], **OPTIONS)), expected)
    same(collect(UserTable(data.sample(frac=1, random_state=1), **OPTIONS), METRICS[::-1]), expected)
    renamed = data.assign(variant=data.variant.map({"a": "z", "b": "b", "c": "A"}))
    collected = collect(UserTable(renamed, **OPTIONS))
    assert collected.arms == ("A", "b", "z")
    assert collected.moments("z").means == pytest.approx(expected.moments("a").means, rel=1e-12)


def test_what_a_table_of_users_cannot_answer_is_refused(data: pd.DataFrame) -> None:
    with pytest.raises(DataError, match="has a window, and the data frame has one row per unit"):
        collect(UserTable(data), (Retention(name="r", column="clicks"),))
    with pytest.raises(DataError, match="has a window"):
        collect(UserTable(data), (Mean(name="m", column="gmv", window=Window(0 * METRIC_DAY, METRIC_DAY)),))
    with pytest.raises(MissingColumnError, match=r"no column 'contry'\. Did you mean 'country'"):
        collect(UserTable(data, where=(Filter("contry", "=", "de"),)), METRICS[:1])
    with pytest.raises(DataError, match="Name its column too"):
        UserTable(data, covariate_until="until")
    with pytest.raises(DataError, match=r"'day' is .*TIMESTAMP.*, which leaves the time zone open"):
        collect(UserTable(data.assign(day=pd.Timestamp("2026-06-01")), day="day"), METRICS[:1])


METRIC_DAY = pd.Timedelta(days=1).to_pytimedelta()


def test_values_for_simulation_are_the_columns_as_they_are(data: pd.DataFrame, tmp_path: Path) -> None:
    needs = merged_needs(METRICS[2:4])
    sources: list[Callable[[], UserRows]] = [
        lambda: UserTable(data),
        lambda: SqlTable(write_sql(data, f"sqlite:///{tmp_path / 'v.db'}"), "users"),
    ]
    for make in sources:
        result = make().values(needs)
        assert sorted(result) == ["clicks", "views"]
        assert result["clicks"].tolist() == data.clicks.tolist()
    broken = data.assign(spent=data.spent.mask(data.index < 2))
    with pytest.raises(DataError, match="'spent' is NULL or NaN in 2 rows"):
        UserTable(broken).values(merged_needs([Mean(name="s", column="spent")]))

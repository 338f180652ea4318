"""One row per user, from any place: the same numbers to 1e-9 with every feature in use, and faults named."""

from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pytest
from sqlalchemy import create_engine, types

from analysis.aggregates import FEW_NONZERO, Aggregates, Column, Rank, Rule
from analysis.columns import Cap, Filter, Window
from analysis.currencies import Rates
from analysis.errors import DataError, MetricError, MissingColumnError, MissingRateError, SourceError
from analysis.metrics import Count, Declared, Mean, Proportion, Quantile, Ratio, Retention, merged_needs
from analysis.sources import SparkFrame, SqlTable, UserTable
from analysis.sources.spark_frame import SparkSQL
from analysis.sources.user_rows import UserRows

P99 = Cap(upper_quantile=0.99, nonzero=True)
METRICS: tuple[Declared, ...] = (
    Mean(name="gmv", column="gmv", unit="money", covariate="pre"),
    Mean(name="capped", column="gmv", unit="money", cap=P99, covariates=("pre", "clicks_pre/views_pre")),
    Count(name="clicks", column="clicks"),
    Ratio(name="ctr", numerator="clicks", denominator="views"),
    Ratio(name="ctr_de", numerator="clicks", denominator="views", where=(Filter("country", "in", ("de", "it's")),)),
    Proportion(name="buyers", column="gmv"),
    Proportion(name="members", column="member"),
    Quantile(name="median", column="spent"),
    Quantile(name="p90", column="pre", q=0.9),
)
OPTIONS: dict[str, Any] = {
    "unit": "user",
    "day": "day",
    "segment": "country",
    "where": (Filter("views", ">", 2),),
    "covariate_until": "until",
    "currency_column": "currency",
    "rates": Rates("EUR", {"USD": 0.92, "JPY": 0.0061}, date(2026, 6, 1)),
    "money": ("gmv", "pre"),
}


def frame(n: int = 3000, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    views, views_pre = rng.integers(1, 30, (2, n))
    day = [date(2026, 6, 1 + int(d)) for d in rng.integers(0, 5, n)]
    return pd.DataFrame(
        {
            "user": [f"u{i}" for i in range(n)],
            "variant": rng.choice(["a", "b", "c"], n),
            "gmv": np.where(rng.random(n) < 0.3, np.exp(rng.normal(8, 1, n)).round(), 0).astype(int),
            "pre": np.exp(rng.normal(8, 1, n)).round().astype(int),
            "spent": rng.lognormal(8, 1, n),
            "clicks": rng.binomial(views, 0.2),
            "views": views,
            "clicks_pre": rng.binomial(views_pre, 0.2),
            "views_pre": views_pre,
            "member": rng.random(n) < 0.4,
            "country": rng.choice(["de", "fr", "it's"], n),
            "currency": rng.choice(["EUR", "USD", "JPY"], n),
            "day": day,
            "until": [date(2026, 5, 31)] * n,
        }
    )


def write_sql(data: pd.DataFrame, url: str) -> Any:
    engine = create_engine(url)
    dates: Any = dict.fromkeys(("day", "until"), types.Date())
    with engine.begin() as connection:
        data.to_sql("users", connection, index=False, dtype=dates | {"member": types.Boolean()}, chunksize=200)
    return engine


def collect(source: UserRows, metrics: tuple[Declared, ...] = METRICS) -> Aggregates:
    return source.collect(merged_needs(metrics)).aggregates


def numbers(found: Aggregates) -> dict[str, float]:
    """Every number that statistics see, by name."""
    flat: dict[str, float] = {}
    for arm in found.arms:
        for segment in (None, *found.segments):
            for until in (None, *found.days):
                m = found.moments(arm, until=until, segment=segment)
                where = f"{arm} {segment} {until}"
                flat[f"{where} n"] = m.n
                flat |= {f"{where} mean {c}": mean for c, mean in m.means.items()}
                flat |= {f"{where} cov {a}, {b}": v for (a, b), v in (m.covariances or {}).items()}
        flat |= {f"{arm} capped {c}": found.capped(c, arm) for c in found.limits}
    flat |= {f"limit {c}": limit.upper or 0.0 for c, limit in found.limits.items()}
    for (arm, rank), ranked in found.ranked.items():
        flat |= {f"{arm} {rank} {r}": value for r, value in zip(ranked.ranks, ranked.values, strict=True)}
    return flat


def same(a: Aggregates, b: Aggregates) -> None:
    assert numbers(a) == pytest.approx(numbers(b), rel=1e-9)


@pytest.fixture(scope="module")
def data() -> pd.DataFrame:
    return frame()


@pytest.fixture(scope="module")
def expected(data: pd.DataFrame) -> Aggregates:
    return collect(UserTable(data, **OPTIONS))


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
        found = collect(replace(instants, day="first", covariate_until=None))
        assert found.days == expected.days
    finally:
        engine.dispose()


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
    found = source.collect(merged_needs(METRICS))
    same(found.aggregates, expected)
    cells = 3 * 5 * 3  # arms, days, segments
    assert max(fetched) == cells
    assert "FROM `users`" in found.facts.sql[0]  # not the name that it had only for this report
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


def test_neither_rows_nor_labels_in_another_order_change_anything(data: pd.DataFrame, expected: Aggregates) -> None:
    same(collect(UserTable(data.iloc[::-1], **OPTIONS)), expected)
    same(collect(UserTable(data.sample(frac=1, random_state=1), **OPTIONS), METRICS[::-1]), expected)
    renamed = data.assign(variant=data.variant.map({"a": "z", "b": "b", "c": "A"}))
    found = collect(UserTable(renamed, **OPTIONS))
    assert found.arms == ("A", "b", "z")
    assert found.moments("z").means == pytest.approx(expected.moments("a").means, rel=1e-12)


def test_instants_are_cut_into_utc_days() -> None:
    times = pd.to_datetime(["2026-06-01T23:59:59Z", "2026-06-02T00:00:00Z", "2026-06-02T01:00:00+02:00"], utc=True)
    data = pd.DataFrame({"variant": "a", "x": [1.0, 2.0, 4.0], "first": times})
    found = collect(UserTable(data, day="first"), (Mean(name="x", column="x"),))
    assert [found.moments(until=day).n for day in found.days] == [2, 3]


# ------------------------------------------------------------------------------------------ caps and currencies


def test_a_cap_is_pooled_over_the_arms_not_taken_in_each() -> None:
    """A treatment with larger values must not get a larger cap."""
    data = pd.DataFrame({"variant": ["a"] * 100 + ["b"] * 100, "x": [*range(1, 101), *range(101, 201)]})
    metric = Mean(name="x", column="x", cap=Cap(upper_quantile=0.5))
    found = collect(UserTable(data), (metric,))
    assert found.limits[metric.inputs[0]].upper == 100
    assert (found.capped(metric.inputs[0], "a"), found.capped(metric.inputs[0], "b")) == (0, 100)
    assert found.moments("b").means[metric.inputs[0]] == 100


def test_a_lower_limit_and_an_absolute_one() -> None:
    data = pd.DataFrame({"variant": "a", "x": [-50.0, 0.0, 5.0, 900.0]})
    metric = Mean(name="x", column="x", cap=Cap(upper=100, lower_quantile=0.3))
    found = collect(UserTable(data), (metric,))
    limits = found.limits[metric.inputs[0]]
    assert (limits.lower, limits.upper) == (0.0, 100)
    assert found.moments("a").means[metric.inputs[0]] == (0 + 0 + 5 + 100) / 4
    assert found.capped(metric.inputs[0], "a") == 2


def test_a_quantile_cap_that_comes_out_as_zero_is_refused() -> None:
    """99 % quantile over all visitors of a shop where 1 % buy."""
    data = pd.DataFrame({"variant": ["a", "b"] * 500, "gmv": [0] * 995 + [100] * 5})
    with pytest.raises(MetricError, match=r"gmv capped <= p99 is 0, .* non-zero values"):
        collect(UserTable(data), (Mean(name="gmv", column="gmv", cap=Cap(upper_quantile=0.99)),))
    with pytest.raises(MetricError, match="All values of gmv are 0"):
        collect(UserTable(data.assign(gmv=0)), (Mean(name="gmv", column="gmv", cap=P99),))
    assert collect(UserTable(data), (Mean(name="gmv", column="gmv", cap=P99),)).limits


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_cap_does_not_hide_nan_or_infinity(value: float) -> None:
    data = pa.table({"variant": ["a", "a", "b"], "gmv": [1.0, value, 3.0]})
    with pytest.raises(DataError, match="gmv of arm 'a' holds NaN, infinite"):
        collect(UserTable(data), (Mean(name="gmv", column="gmv", cap=Cap(upper=2)),))


def test_a_currency_without_a_rate_is_named() -> None:
    data = frame(100).assign(currency=["EUR", "CHF", "SEK", "USD"] * 25)
    with pytest.raises(MissingRateError, match=r"none for CHF, SEK; it has EUR, JPY, USD"):
        collect(UserTable(data, **OPTIONS))
    with pytest.raises(DataError, match="not what to convert"):
        UserTable(data, rates=OPTIONS["rates"])


# ---------------------------------------------------------------------------------- what the sums need not count


def parquet(data: pd.DataFrame, folder: Path) -> UserTable:
    data.to_parquet(folder / "u.parquet")
    return UserTable(folder / "u.parquet")


def test_bounds_on_tails_hold_and_are_counted_where_they_say_too_little(tmp_path: Path) -> None:
    metric = (Mean(name="gmv", column="gmv"),)
    data = frame(20_000)
    exact, bounded = (
        collect(s, metric).moments("a").tails[Column("gmv")] for s in (UserTable(data), parquet(data, tmp_path))
    )
    assert not bounded.exact
    assert FEW_NONZERO <= bounded.nonzero <= exact.nonzero
    assert bounded.largest >= exact.largest
    few = data.assign(gmv=np.where(np.arange(20_000) < 150, data.pre, 0))
    assert (
        collect(parquet(few, tmp_path), metric).moments("a").tails == collect(UserTable(few), metric).moments("a").tails
    )
    heavy = data.assign(gmv=np.where(np.arange(20_000) == 7, 10**8, data.pre))
    assert collect(parquet(heavy, tmp_path), metric).moments("a").tails == (
        collect(UserTable(heavy), metric).moments("a").tails
    )


def test_rules_are_counted_wherever_statistics_do_not_settle_them(tmp_path: Path) -> None:
    data = frame(400)
    data.loc[[3, 5], "clicks"] = data.views + 1
    data.loc[7, "clicks"] = -1
    metric = (Ratio(name="ctr", numerator="clicks", denominator="views"),)
    clicks, views = Column("clicks"), Column("views")
    for source in (UserTable(data), parquet(data, tmp_path)):
        found = collect(source, metric)
        broken = [found.broken(rule) for rule in (Rule(clicks, views), Rule(clicks), Rule(views))]
        assert broken == [2, 1, 0]


# ------------------------------------------------------------------------------------------------- what is refused


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


def test_covariates_that_reach_beyond_exposure_are_counted(data: pd.DataFrame) -> None:
    late = data.assign(until=[date(2026, 6, 2)] * len(data))
    options = {**OPTIONS, "where": ()}
    facts = UserTable(late, **options).collect(merged_needs(METRICS)).facts
    assert facts.late_covariates == sum(day < date(2026, 6, 2) for day in late.day) > 0
    facts = UserTable(data, **options).collect(merged_needs(METRICS)).facts
    assert facts.late_covariates == 0


def test_values_for_simulation_are_the_columns_as_they_are(data: pd.DataFrame, tmp_path: Path) -> None:
    needs = merged_needs(METRICS[2:4])
    sources: list[Callable[[], UserRows]] = [
        lambda: UserTable(data),
        lambda: SqlTable(write_sql(data, f"sqlite:///{tmp_path / 'v.db'}"), "users"),
    ]
    for make in sources:
        found = make().values(needs)
        assert sorted(found) == ["clicks", "views"]
        assert found["clicks"].tolist() == data.clicks.tolist()
    broken = data.assign(spent=data.spent.mask(data.index < 2))
    with pytest.raises(DataError, match="'spent' is NULL or NaN in 2 rows"):
        UserTable(broken).values(merged_needs([Mean(name="s", column="spent")]))

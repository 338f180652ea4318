"""Files and data frames give the same aggregates, and bad values are refused by name."""

from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
from sqlalchemy import text

from analysis.aggregates import Column, Moments
from analysis.currencies import Rates
from analysis.errors import ArgumentError, DataError, MissingColumnError, MixedCurrenciesError, SourceError
from analysis.metrics import Mean, Metric, Proportion, Ratio, merged_needs, shop_metrics
from analysis.sources import ExperimentTables, UserTable

GMV = Mean(name="gmv", column="gmv", covariate="pre")
METRICS: tuple[Metric, ...] = (
    GMV,
    Ratio(name="ctr", numerator="clicks", denominator="views"),
    Proportion(name="buyers", column="gmv"),
)


def frame(n: int = 500, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    views = rng.integers(1, 30, n)
    return pd.DataFrame(
        {
            "user": np.arange(n),
            "variant": rng.choice(["a", "b"], n),
            "gmv": rng.lognormal(8, 1, n) * (rng.random(n) < 0.3),
            "pre": rng.lognormal(8, 1, n),
            "clicks": rng.binomial(views, 0.2),
            "views": views,
            "day": pd.to_datetime("2026-06-01") + pd.to_timedelta(rng.integers(0, 5, n), unit="D"),
        }
    )


def moments(source: UserTable, arm: str, metrics: tuple[Metric, ...] = METRICS) -> Moments:
    return source.collect(merged_needs(metrics)).aggregates.moments(arm)


def assert_same(a: Moments, b: Moments, rel: float = 1e-12) -> None:
    assert a.n == b.n
    assert {str(k): v for k, v in a.means.items()} == pytest.approx({str(k): v for k, v in b.means.items()}, rel=rel)
    assert a.covariances is not None
    assert b.covariances is not None
    assert list(a.covariances) == list(b.covariances)
    assert list(a.covariances.values()) == pytest.approx(list(b.covariances.values()), rel=rel)
    assert a.tails == b.tails


def test_the_moments_are_those_of_pandas() -> None:
    data = frame()
    ours = moments(UserTable(data), "b")
    theirs = data[data.variant == "b"]
    assert ours.n == len(theirs)
    assert ours.means[Column("gmv")] == pytest.approx(theirs.gmv.mean(), rel=1e-12)
    assert ours.covariance(Column("gmv"), Column("pre")) == pytest.approx(theirs.gmv.cov(theirs.pre), rel=1e-10)
    assert ours.means[Column("gmv", positive=True)] == pytest.approx((theirs.gmv > 0).mean())
    assert ours.tails[Column("gmv")].nonzero == (theirs.gmv != 0).sum()
    assert ours.tails[Column("gmv")].largest == pytest.approx(theirs.gmv.max())


def test_parquet_csv_arrow_feather_and_pandas_give_the_same(tmp_path: Path) -> None:
    data = frame().drop(columns="day")
    table = pa.Table.from_pandas(data)
    data.to_parquet(tmp_path / "u.parquet")
    data.to_csv(tmp_path / "it's.csv", index=False)
    pyarrow.feather.write_feather(table, tmp_path / "u.arrow", compression="uncompressed")
    expected = moments(UserTable(data), "a")
    for other in (tmp_path / "u.parquet", str(tmp_path / "it's.csv"), tmp_path / "u.arrow", table):
        assert_same(moments(UserTable(other), "a"), expected, rel=1e-11)


def test_a_glob_of_files_is_one_table_whatever_their_order(tmp_path: Path) -> None:
    data = frame()
    for number, part in enumerate((data[300:], data[:100], data[100:300])):
        part.to_parquet(tmp_path / f"part{number}.parquet")
    assert_same(moments(UserTable(tmp_path / "part*.parquet"), "a"), moments(UserTable(data), "a"), rel=1e-11)


def test_the_order_of_rows_changes_nothing() -> None:
    data = frame()
    assert_same(moments(UserTable(data.sample(frac=1, random_state=1)), "a"), moments(UserTable(data), "a"), rel=1e-11)


def test_a_file_gives_the_numbers_of_the_tables_it_was_made_from(filled_shop: Any, tmp_path: Path) -> None:
    """The experiment's tables in SQLite against one row per user in Parquet, to 1e-9."""
    metrics = shop_metrics()
    source = ExperimentTables(filled_shop.engine, "ranking")
    expected = source.collect(merged_needs(metrics)).aggregates
    with filled_shop.engine.connect() as connection:
        units, events, orders = (
            pd.read_sql(text(f"SELECT * FROM {name}"), connection)
            for name in ("first_exposure", "event", "order_event")
        )
    users = units.set_index("unit_id")
    events["pre"] = events.event_time < events.unit_id.map(users.first_time)
    for column, kind in (("clicks", "click"), ("impressions", "impression")):
        for suffix, pre in (("", False), ("_pre", True)):
            users[column + suffix] = events[(events.kind == kind) & (events.pre == pre)].groupby("unit_id").size()
    first = orders.unit_id.map(users.first_time)
    placed = orders[orders.kind == "placed"].groupby("order_id").event_time.min()
    orders["pre"] = orders.order_id.map(placed) < first
    # A refund one microsecond after the order may fall on the other side of exposure: such a one is not in the data.
    assert ((orders.event_time < first) == orders.pre).all()
    for suffix, pre in (("", False), ("_pre", True)):
        part = orders[orders.pre == pre]
        users["gmv_net" + suffix] = part.groupby("unit_id").amount_minor.sum()
        users["gmv_gross" + suffix] = part[part.kind == "placed"].groupby("unit_id").amount_minor.sum()
        users["orders" + suffix] = part.groupby("unit_id").order_id.nunique()
    users.fillna(0).reset_index().to_parquet(tmp_path / "users.parquet")
    table = UserTable(tmp_path / "users.parquet", variant="arm", unit="unit_id")
    for arm in ("control", "treatment"):
        assert_same(moments(table, arm, metrics), expected.moments(arm), rel=1e-9)


def test_nist_numacc4_keeps_its_digits() -> None:
    """NIST StRD NumAcc4: 10000000.2 once, then 10000000.1 and 10000000.3 500 times each; mean 10000000.2, sd 0.1."""
    y = np.r_[10000000.2, np.tile([10000000.1, 10000000.3], 500)]
    arms = moments(UserTable(pd.DataFrame({"variant": "a", "y": y})), "a", (Mean(name="y", column="y"),))
    assert arms.n == 1001
    assert arms.means[Column("y")] == pytest.approx(10000000.2, rel=1e-15)
    # The numbers themselves are rounded to doubles: 1e-9 is the precision of the data, 1e-16 * 1e7 / 0.1 in relative.
    assert arms.variance(Column("y")) ** 0.5 == pytest.approx(0.1, rel=1e-8)
    assert arms.variance(Column("y")) == pytest.approx(np.var(y - 10000000.2, ddof=1), rel=1e-10)


def test_a_constant_column_has_a_variance_of_exactly_zero() -> None:
    data = pd.DataFrame({"variant": ["a", "b"] * 500, "y": 0.1})
    assert moments(UserTable(data), "a", (Mean(name="y", column="y"),)).variance(Column("y")) == 0.0


def test_units_in_two_arms_are_out_and_counted() -> None:
    data = frame()
    twice = data.iloc[:3].assign(variant=data.iloc[:3].variant.map({"a": "b", "b": "a"}))
    collected = UserTable(pd.concat([data, twice]), unit="user").collect(merged_needs(METRICS))
    assert collected.facts.multiple_arms == 3
    assert_same(collected.aggregates.moments("a"), moments(UserTable(data.iloc[3:]), "a"), rel=1e-11)


def test_integer_and_boolean_labels_are_read_as_text() -> None:
    data = frame()
    for labels in ((0, 1), (False, True)):
        relabelled = data.assign(variant=data.variant.map(dict(zip("ab", labels, strict=True))))
        arms = UserTable(relabelled).collect(merged_needs(METRICS)).aggregates.arms
        assert arms == tuple(sorted(str(label) for label in labels))


def test_days_and_segments_become_cells() -> None:
    data = frame()
    data["day"] = data.day.dt.date
    data["country"] = np.where(data.user % 2, "de", "fr")
    aggregates = UserTable(data, day="day", segment="country").collect(merged_needs(METRICS)).aggregates
    assert len(aggregates.cells) == 2 * 5 * 2
    french = data[(data.variant == "a") & (data.country == "fr")]
    assert aggregates.moments("a", segment="fr").means[Column("gmv")] == pytest.approx(french.gmv.mean())
    assert aggregates.days[0] == 1_780_272_000_000_000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gmv": np.nan}, "(?s)gmv.*NaN|gmv.*NULL"),
        ({"gmv": np.inf}, "gmv of arm '.' holds NaN, infinite"),
        ({"gmv": -np.inf}, "gmv of arm '.' holds NaN, infinite"),
        ({"variant": None}, "'variant' is NULL"),
        ({"user": 1}, "1 units have several rows in one arm"),
    ],
)
def test_bad_values_are_refused_by_column(change: dict[str, Any], message: str) -> None:
    data = frame().assign(variant="a")
    for column, value in change.items():
        data.loc[0, column] = value
    with pytest.raises(DataError, match=message):
        UserTable(data, unit="user").collect(merged_needs(METRICS))


def test_nan_is_detected_even_where_only_the_sign_counts() -> None:
    """NaN > 0 holds in DuckDB: a share of buyers must not count it."""
    data = pa.table({"variant": ["a", "a"], "gmv": [float("nan"), 1.0]})
    with pytest.raises(DataError, match="gmv of arm 'a' holds NaN"):
        UserTable(data).collect(merged_needs([Proportion(name="buyers", column="gmv")]))


def test_null_is_refused_with_its_count_and_the_remedy() -> None:
    data = pa.table({"variant": ["a", "a", "b"], "gmv": [None, 1.0, None]})
    with pytest.raises(DataError, match=r"'gmv' is NULL in 2 rows\. Write 0"):
        UserTable(data).collect(merged_needs([Mean(name="gmv", column="gmv")]))


def test_currencies_are_stated_or_refused_by_name() -> None:
    data = frame().assign(currency="EUR")
    source = UserTable(data, currency_column="currency")
    assert source.collect(merged_needs(METRICS)).facts.currency == "EUR"
    data.loc[:2, "currency"] = ["GBP", "SEK", "USD"]
    with pytest.raises(MixedCurrenciesError, match="EUR, GBP, SEK, USD"):
        UserTable(data, currency_column="currency").collect(merged_needs(METRICS))


def test_currencies_are_iso_codes_in_any_letters() -> None:
    """`jpy` was shown with two decimals."""
    data = frame().assign(currency=np.where(np.arange(len(frame())) % 2, "jpy", "JPY"))
    assert UserTable(data, currency="jpy").collect(merged_needs(METRICS)).facts.currency == "JPY"
    assert UserTable(data, currency_column="currency").collect(merged_needs(METRICS)).facts.currency == "JPY"
    rates = Rates("eur", {"jpy": 0.0061}, date(2026, 6, 1))
    found = UserTable(data, currency_column="currency", rates=rates, money=("gmv",)).collect(merged_needs(METRICS))
    expected = UserTable(data.assign(gmv=data.gmv * 0.61)).collect(merged_needs(METRICS))
    assert found.aggregates.moments().means == pytest.approx(expected.aggregates.moments().means)
    with pytest.raises(ArgumentError, match="'yen' is not a currency code"):
        UserTable(data, currency="yen")
    with pytest.raises(DataError, match="'YEN' is not a currency code"):
        UserTable(data.assign(currency="yen"), currency_column="currency").collect(merged_needs(METRICS))


def test_missing_and_unfit_columns_and_files_are_refused(tmp_path: Path) -> None:
    data = frame()
    with pytest.raises(MissingColumnError, match=r"no column 'gmw'\. Did you mean 'gmv'"):
        UserTable(data).collect(merged_needs([Mean(name="gmw", column="gmw")]))
    with pytest.raises(DataError, match="'variant' is VARCHAR, and a metric needs numbers"):
        UserTable(data).collect(merged_needs([Mean(name="v", column="variant")]))
    with pytest.raises(DataError, match="leaves the time zone open"):
        UserTable(data, day="day").collect(merged_needs(METRICS))
    data.assign(day="2026-06-01 12:00:00").to_csv(tmp_path / "times.csv", index=False)
    with pytest.raises(DataError) as refused:
        UserTable(str(tmp_path / "times.csv"), day="day").collect(merged_needs(METRICS))
    query = str(refused.value).split('"')[1]
    assert len(UserTable(query, day="day_utc").collect(merged_needs(METRICS)).aggregates.days) == 1
    with pytest.raises(SourceError, match=r"nowhere\.parquet cannot be read"):
        UserTable(tmp_path / "nowhere.parquet").collect(merged_needs(METRICS))
    with pytest.raises(SourceError, match=r"none of \.parquet"):
        UserTable("users.xlsx").collect(merged_needs(METRICS))
    (tmp_path / "broken.parquet").write_bytes(b"not parquet")
    with pytest.raises(SourceError, match="cannot be read"):
        UserTable(tmp_path / "broken.parquet").collect(merged_needs(METRICS))


def test_the_sql_is_kept_and_runs_as_it_stands(tmp_path: Path) -> None:
    import duckdb

    data = frame()
    data.to_parquet(tmp_path / "u.parquet")
    collected = UserTable(tmp_path / "u.parquet").collect(merged_needs(METRICS))
    with duckdb.connect() as connection:
        rows = connection.execute(collected.facts.sql[0]).fetchall()
    assert {row[0]: row[1] for row in rows} == {arm: collected.aggregates.count(arm) for arm in ("a", "b")}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "variant,gmv\n" + "0,1\n1,2\n" * 30_000 + "1,abc\n",
            r"line 60002: Error when converting column \"gmv\"\. Could not convert string \"abc\" to 'BIGINT'\.",
        ),
        ("variant,gmv\n0,1\n1,2,3\n1,2\n", r"line 3: Expected Number of Columns: 2 Found: 3"),
        ("variant,gmv,GMV\n0,1,2\n1,2,3\n", "names the column 'gmv' twice in its header"),
    ],
)
def test_a_csv_file_is_refused_with_reason_and_line(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "u.csv").write_text(content, encoding="utf-8")
    with pytest.raises(SourceError, match=message):
        UserTable(tmp_path / "u.csv").collect(merged_needs([Mean(name="gmv", column="gmv")]))


def test_a_csv_file_in_another_encoding_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "u.csv").write_bytes("variant,gmv,city\n0,1,Köln\n1,2,Bonn\n".encode("latin-1"))
    with pytest.raises(SourceError, match=r"line \d: .*not utf-8 encoded\. Save it as UTF-8"):
        UserTable(tmp_path / "u.csv").collect(merged_needs([Mean(name="gmv", column="gmv")]))


def test_a_data_frame_with_two_columns_of_one_name_is_refused() -> None:
    data = pd.DataFrame([[0, 1, 2], [1, 2, 3]], columns=["variant", "gmv", "gmv"])
    with pytest.raises(DataError, match="has two columns 'gmv'"):
        UserTable(data).collect(merged_needs([Mean(name="gmv", column="gmv")]))

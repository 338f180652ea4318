"""What counts for a unit, to the microsecond, and what is refused."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import create_engine

from analysis.aggregates import Column
from analysis.columns import Cap, Filter, Window
from analysis.currencies import Rates
from analysis.errors import (
    ArmError,
    DataError,
    MetricError,
    MissingColumnError,
    MissingRateError,
    MixedCurrenciesError,
    SourceError,
)
from analysis.metrics import Declared, Mean, Quantile, Retention, merged_needs, shop_metrics
from analysis.sources import Collected, ExperimentTables
from analysis.sources.base import Refunds
from analysis.times import to_datetime

DAY = 86_400_000_000
T = 1_780_272_000_000_000  # 2026-06-01 00:00 UTC


def collect(shop: Any, *columns: str, **options: Any) -> Collected:
    shop.save()
    metrics = [Mean(name=column, column=column) for column in columns]
    return ExperimentTables(shop.engine, "ranking", **options).collect(merged_needs(metrics))


def total(collected: Collected, column: str, arm: str = "a") -> float:
    moments = collected.aggregates.moments(arm)
    return round(moments.means[Column(column)] * moments.n, 6)


def test_the_window_is_closed_at_first_exposure_and_open_at_its_end(shop: Any) -> None:
    shop.unit("u", "a", T)
    for time in (T - 1, T, T + 14 * DAY - 1, T + 14 * DAY):
        shop.engagement("u", "click", time)
    result = collect(shop, "clicks", "clicks_pre")
    assert total(result, "clicks") == 2
    assert total(result, "clicks_pre") == 1


def test_the_pre_period_ends_strictly_before_exposure_and_reaches_back_its_length(shop: Any) -> None:
    shop.unit("u", "a", T)
    for time in (T - 28 * DAY - 1, T - 28 * DAY, T - 1, T):
        shop.engagement("u", "click", time)
    assert total(collect(shop, "clicks_pre"), "clicks_pre") == 2


def test_net_is_less_what_came_back_in_the_window_and_gross_is_not(shop: Any) -> None:
    shop.unit("u", "a", T)
    shop.order("u", T + 1, 10_000, "kept")
    shop.order("u", T + 2, 5_000, "gone")
    shop.order("u", T + 3, -5_000, "gone", "cancelled")
    shop.order("u", T + 4, 3_000, "part")
    shop.order("u", T + 5, -1_000, "part", "refunded")
    shop.order("u", T + 14 * DAY, -10_000, "kept", "charged_back")  # after the window
    result = collect(shop, "gmv_net", "gmv_gross", "orders")
    assert total(result, "gmv_gross") == 18_000
    assert total(result, "gmv_net") == 12_000
    assert total(result, "orders") == 3
    assert result.facts.currency == "EUR"


def test_the_refund_of_an_order_placed_before_exposure_does_not_count(shop: Any) -> None:
    shop.unit("u", "a", T)
    shop.order("u", T - 1, 7_000, "before")
    shop.order("u", T + 1, -7_000, "before", "refunded")
    result = collect(shop, "gmv_net", "gmv_net_pre", "orders", "orders_pre")
    assert [total(result, c) for c in ("gmv_net", "gmv_net_pre", "orders", "orders_pre")] == [0, 7_000, 0, 1]


def test_an_order_of_several_lines_is_one_order(shop: Any) -> None:
    shop.unit("u", "a", T)
    shop.order("u", T + 1, 100, "o")
    shop.order("u", T + 1, 200, "o")
    result = collect(shop, "orders", "gmv_net")
    assert (total(result, "orders"), total(result, "gmv_net")) == (1, 300)


def test_events_and_orders_of_one_unit_do_not_multiply_each_other(shop: Any) -> None:
    shop.unit("u", "a", T)
    for i in range(3):
        shop.engagement("u", "click", T + i)
        shop.engagement("u", "impression", T + i)
        shop.order("u", T + i, 10, f"o{i}")
    result = collect(shop, "clicks", "impressions", "orders", "gmv_net")
    assert [total(result, c) for c in ("clicks", "impressions", "orders", "gmv_net")] == [3, 3, 3, 30]


def test_units_in_two_arms_are_out_and_counted_and_other_experiments_are_not_read(shop: Any) -> None:
    shop.unit("u", "a", T)
    shop.unit("both", "__multiple__", T)
    shop.engagement("both", "click", T)
    shop.experiment = "other"
    shop.unit("stranger", "a", T)
    result = collect(shop, "clicks")
    assert result.aggregates.count("a") == 1
    assert total(result, "clicks") == 0
    assert result.facts.multiple_arms == 1
    assert result.aggregates.arms == ("a",)


def test_a_unit_without_events_counts_with_zero(shop: Any) -> None:
    shop.unit("u", "a", T)
    shop.unit("silent", "a", T)
    shop.engagement("u", "click", T)
    assert collect(shop, "clicks").aggregates.moments("a").means[Column("clicks")] == 0.5


def test_immature_units_are_counted_or_left_out_on_request(shop: Any) -> None:
    shop.unit("old", "a", T)
    shop.unit("new", "a", T + 1)
    as_of = to_datetime(T + 14 * DAY)
    assert collect(shop, "clicks", as_of=as_of).facts.immature == 1
    only = collect(shop, "clicks", as_of=as_of, complete_windows_only=True)
    assert only.aggregates.count("a") == 1
    assert only.facts.immature == 0


def test_nothing_after_the_cut_off_is_read(shop: Any) -> None:
    shop.unit("u", "a", T)
    shop.unit("later", "a", T + 10)
    for time in (T + 5, T + 6):
        shop.engagement("u", "click", time)
    result = collect(shop, "clicks", as_of=to_datetime(T + 5))
    assert result.aggregates.count("a") == 1
    assert total(result, "clicks") == 1
    assert collect(shop, "clicks").facts.cut_off == to_datetime(T + 10)


def test_cells_fall_into_buckets_that_fit_the_length_of_the_experiment(shop: Any) -> None:
    for day in range(14):
        shop.unit(f"u{day}", "a", T + day * DAY + DAY // 2)
    result = collect(shop, "clicks")
    assert result.facts.bucket == timedelta(days=1)
    assert result.aggregates.days == tuple(T + day * DAY for day in range(14))


def test_config_versions_are_stated(shop: Any) -> None:
    shop.unit("u", "a", T, version=3)
    shop.unit("v", "a", T, version=2)
    assert collect(shop, "clicks").facts.config_versions == (2, 3)


def test_several_currencies_are_refused_by_name_only_for_metrics_of_money(shop: Any) -> None:
    shop.unit("u", "a", T)
    for number, currency in enumerate(("EUR", "GBP", "USD")):
        shop.order("u", T + number, 100, f"o{number}", currency=currency)
    with pytest.raises(MixedCurrenciesError, match="EUR, GBP, USD") as caught:
        collect(shop, "gmv_net")
    assert caught.value.currencies == ("EUR", "GBP", "USD")
    assert collect(shop, "clicks").aggregates.count("a") == 1


def test_bad_requests_are_refused_in_one_sentence(shop: Any) -> None:
    shop.unit("u", "a", T)
    with pytest.raises(MissingColumnError, match="Did you mean 'clicks'"):
        collect(shop, "click")
    with pytest.raises(ArmError, match=r"'unknown' has no exposures\. There are: ranking\."):
        ExperimentTables(shop.engine, "unknown").collect(merged_needs(shop_metrics()))
    with pytest.raises(DataError, match="without a time zone"):
        ExperimentTables(shop.engine, "ranking", as_of=datetime(2026, 6, 1))
    with pytest.raises(DataError, match="window"):
        ExperimentTables(shop.engine, "ranking", window=timedelta(0))
    empty = create_engine("sqlite://")
    with pytest.raises(SourceError, match="no such table: first_exposure"):
        ExperimentTables(empty, "ranking").collect(merged_needs(shop_metrics()))
    empty.dispose()


def test_an_aware_cut_off_in_another_zone_means_the_same_instant(shop: Any) -> None:
    from datetime import timezone

    shop.unit("u", "a", T)
    zone = timezone(timedelta(hours=5))
    for as_of in (datetime(2026, 6, 2, tzinfo=UTC), datetime(2026, 6, 2, 5, tzinfo=zone)):
        assert collect(shop, "clicks", as_of=as_of).facts.cut_off == datetime(2026, 6, 2, tzinfo=UTC)


def test_a_metric_has_a_window_of_its_own_from_the_same_first_exposure(shop: Any) -> None:
    shop.unit("u", "a", T)
    for time in (T, T + 3 * DAY - 1, T + 3 * DAY, T + 7 * DAY - 1, T + 7 * DAY, T + 20 * DAY):
        shop.engagement("u", "click", time)
    shop.order("u", T + 3 * DAY, 500, "o")
    shop.order("u", T + 7 * DAY, -200, "o", "refunded")
    shop.save()
    week = Window(timedelta(days=3), timedelta(days=7))
    month = Window(timedelta(0), timedelta(days=28))
    metrics = [
        Mean(name="all", column="clicks"),
        Mean(name="week", column="clicks", window=week),
        Mean(name="month", column="clicks", window=month),
        Mean(name="week_net", column="gmv_net", window=week),
        Mean(name="net", column="gmv_net"),
    ]
    result = ExperimentTables(shop.engine, "ranking").collect(merged_needs(metrics))
    means = result.aggregates.moments("a").means
    assert [means[metric.inputs[0]] for metric in metrics] == [5, 2, 6, 500, 300]
    assert result.facts.window == timedelta(days=28)  # the longest one decides who is mature


def test_retention_is_the_share_of_units_with_any_event_in_its_window(shop: Any) -> None:
    for unit, day in (("early", 6), ("first", 7), ("last", 13), ("late", 14)):
        shop.unit(unit, "a", T)
        shop.engagement(unit, "save", T + day * DAY)
    shop.save()
    metric = Retention(name="second_week")
    result = ExperimentTables(shop.engine, "ranking").collect(merged_needs([metric]))
    assert metric.value(result.aggregates.moments("a").means) == 0.5


def test_filters_choose_events_and_are_refused_for_orders(shop: Any) -> None:
    shop.unit("u", "a", T)
    for surface in ("home", "home", "search", "it's"):
        shop.engagement("u", "click", T + 1, surface)
    shop.save()
    source = ExperimentTables(shop.engine, "ranking")

    def clicks(*filters: Filter) -> float:
        metric = Mean(name="m", column="clicks", where=filters)
        return source.collect(merged_needs([metric])).aggregates.moments("a").means[metric.inputs[0]]

    assert clicks(Filter("surface", "=", "home")) == 2
    assert clicks(Filter("surface", "in", ("search", "it's"))) == 2
    assert clicks(Filter("surface", "!=", "home"), Filter("surface", "!=", "search")) == 1
    with pytest.raises(MissingColumnError, match=r"An event has no column 'sruface'\. Did you mean 'surface'"):
        clicks(Filter("sruface", "=", "home"))
    with pytest.raises(MetricError, match="orders cannot be filtered"):
        source.collect(merged_needs([Mean(name="m", column="orders", where=(Filter("surface", "=", "home"),))]))
    with pytest.raises(MetricError, match="counts the time before it"):
        source.collect(merged_needs([Retention(name="m", column="clicks_pre")]))


def test_orders_in_several_currencies_are_converted_with_the_pinned_rates(shop: Any) -> None:
    shop.unit("u", "a", T)
    shop.order("u", T + 1, 1_000, "o1")
    shop.order("u", T + 1, 1_000, "o2", currency="USD")
    shop.order("u", T + 2, -500, "o2", "refunded", currency="USD")
    shop.order("u", T + 1, 1_000, "o3", currency="JPY")
    shop.order("u", T - 1, 200, "o4", currency="USD")
    columns = ("gmv_net", "gmv_gross", "gmv_net_pre")
    with pytest.raises(MixedCurrenciesError, match=r"EUR, JPY, USD.*table of rates"):
        collect(shop, *columns)
    rates = Rates("EUR", {"USD": 0.9, "JPY": 0.006}, date(2026, 6, 1))
    result = collect(shop, *columns, rates=rates)
    assert total(result, "gmv_gross") == 1_000 + 900 + 600
    assert total(result, "gmv_net") == 1_000 + 450 + 600
    assert total(result, "gmv_net_pre") == 180
    assert (result.facts.currency, result.facts.rates) == ("EUR", rates)
    with pytest.raises(MissingRateError, match="none for JPY"):
        collect(shop, *columns, rates=Rates("EUR", {"USD": 0.9}, date(2026, 6, 1)))


def test_rows_that_arrived_late_and_refunds_after_the_window_are_stated(shop: Any) -> None:
    shop.unit("u", "a", T)
    shop.engagement("u", "click", T + 1, delay=DAY)
    shop.engagement("u", "click", T + 2, delay=DAY + 1)
    shop.engagement("u", "click", T - 1, delay=9 * DAY)  # before the experiment
    for order, refund in (("o1", 5 * DAY), ("o2", 20 * DAY)):
        shop.order("u", T + 3, 1_000, order)
        shop.order("u", T + 3, 500, order)  # a second line
        shop.order("u", T + refund, -600, order, "refunded")
    shop.order("u", T - 5, 1_000, "before")
    shop.order("u", T + 5, -1_000, "before", "refunded")
    facts = collect(shop, "gmv_net", "clicks").facts
    assert facts.late is not None
    assert (facts.late.rows, facts.late.of) == (1, 9)
    assert collect(shop, "clicks", late_after=None).facts.late is None
    assert facts.refunds == Refunds(counted=600, after=600)
    assert collect(shop, "clicks").facts.refunds is None


def test_segments_come_from_a_table_of_units(shop: Any) -> None:
    for unit in ("u1", "u2", "u3"):
        shop.unit(unit, "a", T)
        shop.engagement(unit, "click", T + 1)
    shop.save()
    with shop.engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE customer (unit_id TEXT PRIMARY KEY, country TEXT)")
        connection.exec_driver_sql("INSERT INTO customer VALUES ('u1', 'de'), ('u2', 'fr'), ('elsewhere', 'it')")
    result = collect(shop, "clicks", segments=("customer", "country"))
    assert result.aggregates.segments == ("de", "fr", "unknown")
    assert result.aggregates.count("a", "unknown") == 1
    assert result.facts.segment == "country"
    with pytest.raises(MissingColumnError, match=r"'customer' has no column 'contry'\. Did you mean 'country'"):
        collect(shop, "clicks", segments=("customer", "contry"))
    with pytest.raises(MissingColumnError, match=r"has no table 'custmer'\. Did you mean 'customer'"):
        collect(shop, "clicks", segments=("custmer", "country"))


def test_caps_and_quantiles_come_from_the_per_unit_values(filled_shop: Any) -> None:
    metrics: list[Declared] = [
        Mean(name="net", column="gmv_net", cap=Cap(upper_quantile=0.9, nonzero=True)),
        Quantile(name="views", column="impressions", q=0.5),
    ]
    source = ExperimentTables(filled_shop.engine, "ranking")
    result = source.collect(merged_needs(metrics)).aggregates
    assert isinstance(metrics[0], Mean)
    column = metrics[0].inputs[0]
    everyone = result.moments()
    assert result.limits[column].upper is not None
    assert everyone.tails[column].largest == result.limits[column].upper
    assert everyone.means[column] < everyone.means[Column("gmv_net")]
    assert {arm for arm, _ in result.ranked} == {"control", "treatment"}
    for ranked in result.ranked.values():
        assert 15 <= ranked.values[1] <= 25  # Poisson with mean 20


def test_segments_and_covariates_come_from_what_was_recorded_at_first_exposure(shop: Any) -> None:
    """Only this experiment's attributes count; a unit without a recorded value counts as unknown and as 0."""
    for number in range(12):
        unit, arm = f"u{number}", "ab"[number % 2]
        shop.unit(unit, arm, T)
        shop.engagement(unit, "click", T + 1)
        if number < 10:
            shop.attribute(unit, "country", ("de", "fr")[number % 4 > 1])
            shop.attribute(unit, "age", f"{20 + number}.5")
            shop.attribute(unit, "member", ("true", "false")[number > 4])
    shop.experiment = "other"
    shop.attribute("u11", "country", "it")
    shop.experiment = "ranking"
    result = collect(shop, "clicks", "attribute.age", "attribute.member", segments="country")
    assert result.aggregates.segments == ("de", "fr", "unknown")
    assert result.facts.segment == "country"
    with pytest.raises(MissingColumnError, match=r"no recorded attribute 'contry'\. Did you mean 'country'"):
        collect(shop, "clicks", segments="contry")
    assert sum(result.aggregates.count("a", s) for s in ("de", "fr", "unknown")) == 6
    assert result.aggregates.count("b", "unknown") == 1
    assert total(result, "attribute.age") == sum(20.5 + n for n in range(0, 10, 2))
    assert (total(result, "attribute.member"), total(result, "attribute.member", "b")) == (3, 2)
    late = Mean(name="x", column="attribute.age", window=Window(timedelta(days=7), timedelta(days=14)))
    with pytest.raises(MetricError, match=r"attribute\.age in day 7 to 14: an attribute has no window"):
        ExperimentTables(shop.engine, "ranking").collect(merged_needs([late]))


def test_a_recorded_number_reduces_variance_as_a_covariate(shop: Any) -> None:
    for number in range(60):
        shop.unit(f"u{number}", "ab"[number % 2], T)
        shop.attribute(f"u{number}", "level", str(number % 10))
        for _ in range(number % 10):
            shop.engagement(f"u{number}", "click", T + 1)
    shop.save()
    metric = Mean(name="clicks", column="clicks", covariate="attribute.level")
    aggregates = ExperimentTables(shop.engine, "ranking").collect(merged_needs([metric])).aggregates
    moments = aggregates.moments()
    clicks, level = Column("clicks"), Column("attribute.level")
    assert moments.covariance(clicks, level) == pytest.approx(moments.variance(clicks))

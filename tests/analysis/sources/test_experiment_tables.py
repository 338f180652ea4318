"""What counts for a unit, to the microsecond, and what is refused."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import create_engine

from analysis.aggregates import Column
from analysis.errors import ArmError, DataError, MissingColumnError, MixedCurrenciesError, SourceError
from analysis.metrics import Mean, merged_needs, shop_metrics
from analysis.sources import Collected, ExperimentTables
from analysis.sources.base import moment

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
    as_of = moment(T + 14 * DAY)
    assert collect(shop, "clicks", as_of=as_of).facts.immature == 1
    only = collect(shop, "clicks", as_of=as_of, complete_windows_only=True)
    assert only.aggregates.count("a") == 1
    assert only.facts.immature == 0


def test_nothing_after_the_cut_off_is_read(shop: Any) -> None:
    shop.unit("u", "a", T)
    shop.unit("later", "a", T + 10)
    for time in (T + 5, T + 6):
        shop.engagement("u", "click", time)
    result = collect(shop, "clicks", as_of=moment(T + 5))
    assert result.aggregates.count("a") == 1
    assert total(result, "clicks") == 1
    assert collect(shop, "clicks").facts.cut_off == moment(T + 10)


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


def test_several_currencies_are_refused_by_name_but_only_where_money_is_asked_for(shop: Any) -> None:
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

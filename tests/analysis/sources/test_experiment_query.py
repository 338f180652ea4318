"""The statements over an experiment's tables, and which columns they can give."""

from datetime import timedelta
from typing import Any

import pytest

from analysis.aggregates import Needs
from analysis.columns import Column, Filter, Window
from analysis.errors import MetricError, MissingColumnError
from analysis.metrics import Mean, merged_needs
from analysis.sources.experiment_query import UNKNOWN, ExperimentQuery, check_quantity
from analysis.sources.experiment_schema import ATTRIBUTE
from tests.analysis.builders import DAY, START, Shop

CLICKS = Column("clicks")
LATE_CLICKS = Column("clicks", window=Window(timedelta(days=20), timedelta(days=30)))


def needs(*names: str) -> Needs:
    return merged_needs([Mean(name=name, column=name) for name in names])


def query(needed: Needs, **options: Any) -> ExperimentQuery:
    fields = {
        "experiment": "ranking",
        "cut_off": START + 100 * DAY,
        "bucket": timedelta(days=1),
        "window": timedelta(days=14),
        "pre_period": timedelta(days=28),
        **options,
    }
    return ExperimentQuery(needs=needed, **fields)


def rows(shop: Shop, statement: Any) -> list[Any]:
    shop.save()
    with shop.engine.connect() as connection:
        return list(connection.execute(statement).mappings())


def test_the_longest_window_is_that_of_the_report_or_of_a_metric() -> None:
    late = Mean(name="late", column="clicks", window=LATE_CLICKS.window)
    assert query(needs("clicks")).longest_window == timedelta(days=14)
    assert query(merged_needs([late])).longest_window == timedelta(days=30)


def test_there_is_one_row_per_arm_and_interval_of_first_exposure(shop: Shop) -> None:
    for unit, arm, day in (("u", "a", 0), ("v", "a", 0.5), ("w", "a", 1), ("x", "b", 0)):
        shop.unit(unit, arm, START + int(day * DAY))
        shop.engagement(unit, "click", START + int(day * DAY) + 1)
    stored = rows(shop, query(needs("clicks")).statement())
    assert sorted((row["arm"], row["day"], row["n"]) for row in stored) == [
        ("a", START, 2),
        ("a", START + DAY, 1),
        ("b", START, 1),
    ]


def test_units_in_several_arms_after_the_cut_off_or_of_another_experiment_are_left_out(shop: Shop) -> None:
    shop.unit("counts", "a", START)
    shop.unit("several", "__multiple__", START)
    shop.unit("late", "a", START + 2 * DAY)
    shop.experiment = "another"
    shop.unit("other", "a", START)
    statement = query(needs("clicks"), cut_off=START + DAY).statement()
    assert [row["n"] for row in rows(shop, statement)] == [1]


def test_units_whose_window_has_not_ended_are_counted_as_immature_or_left_out(shop: Shop) -> None:
    shop.unit("mature", "a", START)
    shop.unit("immature", "a", START + DAY)
    cut_off = START + 14 * DAY
    (every,) = rows(shop, query(needs("clicks"), cut_off=cut_off, bucket=timedelta(days=7)).statement())
    assert (every["n"], every["immature"]) == (2, 1)
    complete = query(needs("clicks"), cut_off=cut_off, bucket=timedelta(days=7), complete_windows_only=True)
    (only_mature,) = rows(shop, complete.statement())
    assert (only_mature["n"], only_mature["immature"]) == (1, 0)


@pytest.mark.parametrize("recorded", [True, False])
def test_units_without_a_segment_are_unknown(shop: Shop, recorded: bool) -> None:
    shop.unit("u", "a", START)
    shop.unit("v", "a", START)
    shop.attribute("u", "country", "DE")
    with shop.engine.begin() as connection:
        connection.exec_driver_sql("create table customer (unit_id text, country text)")
        connection.exec_driver_sql("insert into customer values ('u', 'DE')")
    segments = "country" if recorded else ("customer", "country")
    stored = rows(shop, query(needs("clicks"), segments=segments).statement())
    assert sorted((row["segment"], row["n"]) for row in stored) == [("DE", 1), (UNKNOWN, 1)]


def test_only_the_currencies_of_orders_that_count_are_listed(shop: Shop) -> None:
    shop.unit("u", "a", START)
    shop.order("u", START + 1, 100, currency="EUR")
    shop.order("u", START - DAY, 100, currency="USD")
    shop.order("u", START + 15 * DAY, 100, currency="JPY")
    shop.order("stranger", START + 1, 100, currency="GBP")
    assert [row["currency"] for row in rows(shop, query(needs("gmv_net")).currencies())] == ["EUR"]
    both = query(needs("gmv_net", "gmv_net_pre")).currencies()
    assert sorted(row["currency"] for row in rows(shop, both)) == ["EUR", "USD"]


def test_refunds_of_counted_orders_are_summed_inside_and_after_the_window(shop: Shop) -> None:
    shop.unit("u", "a", START)
    shop.order("u", START + 1, 100, "counts")
    shop.order("u", START - 1, 100, "before")
    for order, day, amount in (("counts", 1, -30), ("counts", 20, -50), ("before", 1, -7)):
        shop.order("u", START + day * DAY, amount, order, "refunded")
    (sums,) = rows(shop, query(needs("gmv_net")).refunds())
    assert tuple(sums.values()) == (30, 50)


@pytest.mark.parametrize(
    ("column", "error", "message"),
    [
        (Column("likes"), MissingColumnError, "likes"),
        (Column(f"{ATTRIBUTE}age", window=Window(timedelta(0), timedelta(days=1))), MetricError, "has no window"),
        (Column("clicks_pre", window=LATE_CLICKS.window), MetricError, "counts the time before it"),
        (Column("gmv_net", where=(Filter("surface", "=", "home"),)), MetricError, "orders cannot be filtered"),
        (Column("clicks", where=(Filter("colour", "=", "red"),)), MissingColumnError, "colour"),
    ],
)
def test_a_column_that_the_tables_cannot_give_is_refused(column: Column, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        check_quantity(column)


def test_columns_that_the_tables_can_give_are_accepted() -> None:
    for column in (
        CLICKS,
        LATE_CLICKS,
        Column("gmv_net_pre"),
        Column("clicks", where=(Filter("surface", "=", "home"),)),
    ):
        check_quantity(column)

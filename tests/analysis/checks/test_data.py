"""Checks of the data, at and around their thresholds."""

from datetime import date, timedelta

import pytest

from analysis.aggregates import Aggregates, Cell, Rule
from analysis.checks.data import (
    immature_units,
    impossible_values,
    late_data,
    one_currency,
    refunds_after_window,
    units_in_several_arms,
)
from analysis.currencies import Rates
from analysis.metrics import Count, Mean, Ratio
from analysis.sources.base import Facts, Late, Refunds

GMV = Mean(name="gmv", label="GMV", column="gmv", role="goal")


def test_units_in_several_arms_warn_above_one_percent() -> None:
    assert units_in_several_arms(1, 99).status == "ok"
    assert units_in_several_arms(2, 98).status == "warn"
    assert units_in_several_arms(0, 0).value == 0.0


def test_immature_units_warn_and_are_not_mentioned_without_a_window() -> None:
    facts = Facts(source="x", sql=(), immature=6, window=timedelta(days=14))
    check = immature_units(facts, 100)
    assert check is not None
    assert check.status == "warn"
    assert "6 of 100" in check.sentence
    assert "14 days" in check.sentence
    assert immature_units(Facts(source="x", sql=()), 100) is None


def aggregates(
    cells: list[tuple[str, int | None, str | None, int]], broken: dict[Rule, int] | None = None
) -> Aggregates:
    return Aggregates(tuple(Cell(arm, day, segment, n, {}, {}, broken=broken or {}) for arm, day, segment, n in cells))


def test_impossible_values_fail_and_are_named_with_their_number() -> None:
    ratio = Ratio(name="ctr", numerator="clicks", denominator="views", unit="share")
    clicks, views = ratio.inputs
    cells = [("a", None, None, 100), ("b", None, None, 100)]
    check = impossible_values(aggregates(cells, {Rule(clicks, views): 2, Rule(clicks): 0}), [ratio])
    assert check is not None
    assert check.status == "fail"
    assert "clicks above views in 4 units" in check.sentence
    assert "do not declare the ratio a share" in check.sentence
    few = [("a", None, None, 3_000), ("b", None, None, 3_000)]
    warned = impossible_values(aggregates(few, {Rule(clicks, views): 2}), [ratio])
    assert warned is not None
    assert warned.status == "warn"
    sound = impossible_values(aggregates(cells), [ratio, Count(name="clicks", column="clicks")])
    assert sound is not None
    assert sound.status == "ok"
    assert impossible_values(aggregates(cells), [GMV]) is None


@pytest.mark.parametrize(("rows", "status"), [(10, "ok"), (11, "warn")])
def test_late_data_and_refunds_after_the_window_warn_above_their_share(rows: int, status: str) -> None:
    late = late_data(Facts("t", (), late=Late(rows, 1000, timedelta(days=1))))
    assert late is not None
    assert late.status == status
    assert late_data(Facts("t", ())) is None
    after = refunds_after_window(Facts("t", (), refunds=Refunds(counted=1000 - 5 * rows, after=5 * rows)))
    assert after is not None
    assert after.status == status
    assert refunds_after_window(Facts("t", (), refunds=Refunds(0, 0))) is None


def test_converted_amounts_are_stated_with_the_date_of_the_rates() -> None:
    check = one_currency(Facts("t", (), currency="EUR", rates=Rates("EUR", {"USD": 0.9}, date(2026, 6, 1))))
    assert check is not None
    assert "converted to EUR at the rates of 2026-06-01" in check.sentence

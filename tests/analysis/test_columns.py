"""Caps, filters and windows refuse invalid values; columns have a unique order and unique names."""

import re
from datetime import timedelta
from typing import Any

import pytest

from analysis.columns import Cap, Column, Filter, Window, check_upper
from analysis.errors import MetricError
from analysis.query import label


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({}, "has no limit"),
        ({"upper": 0}, "is 0, which would leave nothing above 0"),
        ({"upper": -1.0}, "leave nothing above 0"),
        ({"upper": float("nan")}, "must be a finite number"),
        ({"upper": 5, "upper_quantile": 0.9}, "both upper and upper_quantile"),
        ({"upper_quantile": 1.0}, "between 0 and 1"),
        ({"upper": 1, "lower": 2}, "not below its upper"),
    ],
)
def test_a_cap_without_a_limit_or_without_values_is_refused(limits: dict[str, Any], message: str) -> None:
    with pytest.raises(MetricError, match=message):
        Cap(**limits)


def test_a_cap_of_zero_is_refused_with_the_remedy() -> None:
    with pytest.raises(MetricError, match="quantile over non-zero values"):
        check_upper(0.0, "gmv")
    assert check_upper(2.0, "gmv") == 2.0


@pytest.mark.parametrize(
    ("filter", "message"),
    [
        (("a", "~", 1), "operator is '~'"),
        (("a", "in", "DE"), "takes a tuple of values"),
        (("a", "=", ("DE", "FR")), "takes one"),
        (("a", "in", ()), "lists no value"),
    ],
)
def test_filters_that_cannot_be_meant_are_refused(filter: tuple[Any, ...], message: str) -> None:
    with pytest.raises(MetricError, match=message):
        Filter(*filter)


@pytest.mark.parametrize(("start", "end"), [(-1, 1), (3, 3), (5, 2)])
def test_a_window_begins_at_or_after_exposure_and_ends_later(start: int, end: int) -> None:
    with pytest.raises(MetricError, match="A window runs from"):
        Window(timedelta(days=start), timedelta(days=end))


def test_columns_are_ordered_by_their_text_and_equal_by_their_declaration() -> None:
    plain, capped = Column("gmv"), Column("gmv", cap=Cap(upper_quantile=0.99, nonzero=True))
    windowed = Column("gmv", window=Window(timedelta(0), timedelta(days=7)))
    assert str(capped) == "gmv capped <= p99 of non-zero"
    assert str(windowed) == "gmv in day 0 to 7"
    assert sorted([windowed, capped, plain]) == sorted([plain, windowed, capped]) == [plain, capped, windowed]
    assert capped.quantity == plain
    assert Column("gmv", positive=True).quantity == plain
    assert windowed.quantity == windowed


def test_names_in_sql_are_short_and_tell_columns_apart() -> None:
    """PostgreSQL cuts names at 63 bytes, that of a product holds two; BigQuery takes letters, digits and _ only."""
    columns = [Column("gmv"), Column("gmv", positive=True), Column("day"), Column("uncapped_x"), Column("größe%")]
    columns += [Column("g" * 60, where=(Filter("surface", "=", str(i)),)) for i in range(50)]
    names = [label(column) for column in columns]
    assert len(set(names)) == len(names)
    assert max(len(f"sum_{a}_x_{a}".encode()) for a in names) <= 63
    assert all(re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) for name in names)
    assert names[0] == "gmv"
    assert "day" not in names  # the query has a day of its own

"""Short texts of the command line become caps, filters, splits, shares and numbers, or wrong usage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import typer

from analysis.columns import Cap, Filter
from sagelift.commands.analysis_texts import (
    parse_cap,
    parse_filter,
    parse_number,
    parse_pair,
    parse_share,
    parse_split,
    parse_whole_numbers,
)


@pytest.mark.parametrize(
    ("text", "cap"),
    [
        ("50000", Cap(upper=50000.0)),
        ("p99", Cap(upper_quantile=0.99)),
        ("p99.5:nonzero", Cap(upper_quantile=0.995, nonzero=True)),
    ],
)
def test_a_cap_is_a_number_or_a_percentile(text: str, cap: Cap) -> None:
    assert parse_cap(text) == cap


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("country=DE", Filter("country", "=", "DE")),
        ("country=DE,FR", Filter("country", "in", ("DE", "FR"))),
        ("country != DE", Filter("country", "!=", "DE")),
        ("age>=18", Filter("age", ">=", 18)),
        ("score<0.5", Filter("score", "<", "0.5")),
        ("zip=00501", Filter("zip", "=", "00501")),
        ("zip=501", Filter("zip", "=", 501)),
        ("version=1.10", Filter("version", "=", "1.10")),
        ("country != DE, FR", Filter("country", "!=", ("DE", "FR"))),
        ("note=a!b", Filter("note", "=", "a!b")),
        ("year=2025,2026", Filter("year", "in", (2025, 2026))),
    ],
)
def test_a_filter_is_a_column_an_operator_and_values(text: str, expected: Filter) -> None:
    assert parse_filter(text) == expected


def test_a_split_is_the_weight_of_each_arm() -> None:
    assert parse_split(None) is None
    assert parse_split("control=0.9, treatment=0.1") == {"control": 0.9, "treatment": 0.1}


@pytest.mark.parametrize("text", ["a=90%,b=10%", "a=90, b=10"])
def test_a_split_may_be_in_percent(text: str) -> None:
    assert parse_split(text) == {"a": 90, "b": 10}


@pytest.mark.parametrize(("text", "share"), [("500%", 5.0), ("2%", 0.02), (" 2.5% ", 0.025), ("0.02", 0.02)])
def test_a_share_is_a_percentage_or_a_number(text: str, share: float) -> None:
    assert parse_share(text, "--precision") == pytest.approx(share)


def test_whole_numbers_are_separated_by_commas() -> None:
    assert parse_whole_numbers("8000, 17000", "--earlier-looks", "1,2") == (8000, 17000)
    assert parse_whole_numbers("", "--earlier-looks", "1,2") == ()


@pytest.mark.parametrize(
    ("parse", "option", "message"),
    [
        (lambda: parse_cap("p99:positive"), "--cap", "only `nonzero` may follow the colon"),
        (lambda: parse_cap("p"), "--cap", "'' is not a number"),
        (lambda: parse_filter("country"), "--where", "'country' is not a comparison such as country=DE"),
        (lambda: parse_filter("=DE"), "--where", "is not a comparison"),
        (lambda: parse_split("control"), "--split", "'control' must look like 0=90%,1=10%"),
        (lambda: parse_share("5", "--lift"), "--lift", "Write 5% or 500%"),
        (lambda: parse_number("much", "--lift"), "--lift", "'much' is not a number"),
        (lambda: parse_share("%", "--lift"), "--lift", "'' is not a number"),
        (lambda: parse_whole_numbers("1.5", "--looks", "1,2"), "--looks", "'1.5' must look like 1,2"),
        (lambda: parse_pair("gmv=", "=", "--cap", "gmv=p99"), "--cap", "'gmv=' must look like gmv=p99"),
    ],
)
def test_a_text_that_cannot_be_read_is_wrong_usage_of_its_option(
    parse: Callable[[], Any], option: str, message: str
) -> None:
    with pytest.raises(typer.BadParameter, match=message) as caught:
        parse()
    assert caught.value.param_hint == option

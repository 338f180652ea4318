"""Each event is checked alone, and becomes the row of one table."""

from typing import Any

import pytest

from experiments import tables
from experiments.event_rows import ENGAGEMENTS, ORDER_KINDS, EventRow, row_problem, table_row

FIELDS: dict[str, dict[str, Any]] = {
    "exposure": {"experiment": "ranking", "arm": "control", "config_version": 1},
    **{kind: {"product_id": "p1"} for kind in ENGAGEMENTS},
    **{kind: {"order_id": "o1", "amount_minor": 1_999, "currency": "EUR"} for kind in ORDER_KINDS},
}


def event(kind: str, **changes: Any) -> EventRow:
    fields = {"event_id": "e1", "unit_id": "u", "event_time": 7, **FIELDS.get(kind, {}), **changes}
    return EventRow(kind=kind, **fields)


@pytest.mark.parametrize("kind", FIELDS)
def test_an_event_with_the_fields_of_its_kind_has_no_problem(kind: str) -> None:
    assert row_problem(event(kind)) is None


@pytest.mark.parametrize("kind", FIELDS)
def test_an_event_without_a_field_of_its_kind_has_a_problem(kind: str) -> None:
    for name in FIELDS[kind]:
        assert row_problem(event(kind, **{name: None})) is not None, name


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (event("stare"), "kind 'stare' is not known"),
        (event("click", unit_id=""), "unit_id: unit_missing"),
        (event("click", event_id=""), "event_id is empty"),
        (event("click", event_time=-1), "event_time -1 is not microseconds since 1970 in 64 bits"),
        (event("click", query="a\0b"), "query holds a NUL"),
        (event("refund", amount_minor=-1), "refund needs an amount_minor of 0 or more in 64 bits, got -1"),
        (event("order", currency="eur"), "currency 'eur' is not an ISO 4217 code such as 'EUR'"),
        (event("exposure", attributes={str(n): n for n in range(21)}), "21 attributes; an exposure has at most 20"),
    ],
)
def test_a_problem_names_the_field_and_the_rule(row: EventRow, problem: str) -> None:
    assert (row_problem(row) or "").startswith(problem)


@pytest.mark.parametrize("kind", FIELDS)
def test_an_event_becomes_a_row_with_the_columns_of_its_table(kind: str) -> None:
    table, values = table_row(event(kind), ingested_at=9)
    assert set(values) <= set(table.c.keys())
    assert (values["event_id"], values["unit_id"], values["event_time"], values["ingested_at"]) == ("e1", "u", 7, 9)


def test_money_that_goes_back_to_the_shopper_is_negative() -> None:
    amounts = {kind: table_row(event(kind), 9)[1]["amount_minor"] for kind in ORDER_KINDS}
    assert amounts == {"order": 1_999, "cancellation": -1_999, "refund": -1_999, "chargeback": -1_999}


def test_equal_attributes_have_the_same_text() -> None:
    orders = ({"country": "DE", "age": 30}, {"age": 30, "country": "DE"})
    texts = {table_row(event("exposure", attributes=order), 9)[1]["attributes"] for order in orders}
    assert texts == {'{"age":30,"country":"DE"}'}
    assert table_row(event("exposure"), 9)[0] is tables.exposure

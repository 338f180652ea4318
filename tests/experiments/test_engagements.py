"""The training log: which engagements count for which query, and which had arrived at a given time."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import create_engine, update

from experiments.engagements import EngagementCount, engagement_counts
from experiments.event_rows import EventRow
from experiments.store import ExperimentStore
from experiments.tables import engagement, order_event

EVENING = 1_770_000_000_000_000


@pytest.fixture
def store(tmp_path: Any) -> ExperimentStore:
    store = ExperimentStore(create_engine(f"sqlite:///{tmp_path}/experiments.db"))
    store.create_all()
    return store


def click(id: str, at: int, unit: str = "u", product: str = "p", kind: Any = "click", query: str = "tent") -> EventRow:
    return EventRow(
        event_id=id, kind=kind, unit_id=unit, event_time=at, surface="search", query=query, product_id=product
    )


def order(id: str, at: int, unit: str = "u", product: str = "p") -> EventRow:
    return EventRow(
        event_id=id,
        kind="order",
        unit_id=unit,
        event_time=at,
        order_id=id,
        product_id=product,
        amount_minor=100,
        currency="EUR",
    )


def arrived(store: ExperimentStore, id: str, at: int) -> None:
    with store.engine.begin() as connection:
        for table in (engagement, order_event):
            connection.execute(update(table).where(table.c.event_id == id).values(ingested_at=at))


def counts(store: ExperimentStore, until_us: int | None = None) -> dict[tuple[str, str], int]:
    result = engagement_counts(store.engine, until_us)
    assert all(isinstance(each, EngagementCount) for each in result)
    return {(each.action, each.query): each.count for each in result}


def test_an_order_is_credited_to_the_query_of_the_last_click_before_it(store: ExperimentStore) -> None:
    store.write_events(
        [click("1", EVENING), click("2", EVENING + 5, query="bag"), order("3", EVENING + 9), click("4", EVENING + 10)]
    )
    assert counts(store) == {("click", "tent"): 2, ("click", "bag"): 1, ("checkout", "bag"): 1}


def test_as_of_a_time_only_events_that_had_arrived_count(store: ExperimentStore) -> None:
    store.write_events([click("1", EVENING), click("2", EVENING + 5, kind="save"), click("3", EVENING + 6)])
    for id, at in (("1", EVENING), ("2", EVENING + 5), ("3", EVENING + 60)):
        arrived(store, id, at)
    assert counts(store, EVENING - 1) == {}
    assert counts(store, EVENING) == {("click", "tent"): 1}
    assert counts(store, EVENING + 10) == {("click", "tent"): 1, ("save", "tent"): 1}  # the third was on its way
    assert counts(store, EVENING + 60) == {("click", "tent"): 2, ("save", "tent"): 1} == counts(store)


def test_as_of_a_time_an_order_is_credited_to_a_click_that_had_arrived(store: ExperimentStore) -> None:
    store.write_events([click("1", EVENING), click("2", EVENING + 5, query="bag"), order("3", EVENING + 9)])
    for id, at in (("1", EVENING), ("2", EVENING + 60), ("3", EVENING + 9)):
        arrived(store, id, at)
    assert counts(store, EVENING + 10) == {("click", "tent"): 1, ("checkout", "tent"): 1}
    assert counts(store, EVENING + 60) == {("click", "tent"): 1, ("click", "bag"): 1, ("checkout", "bag"): 1}
    assert counts(store, EVENING + 8) == {("click", "tent"): 1}

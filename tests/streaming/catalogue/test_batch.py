"""Batches between the stages: their sums, halves and times."""

from __future__ import annotations

from streaming.catalogue.batch import (
    BatchResult,
    FeatureChanges,
    Received,
    first_arrival,
    halves,
    oldest_version,
)
from streaming.errors import ContractError
from tests.streaming.builders import record, update


def received(id: str, version: int, offset: int, op: str = "upsert") -> Received:
    message = update(id, version, op)
    return Received(record(message, offset), message)


def test_a_total_is_a_new_result() -> None:
    first, second = BatchResult(), BatchResult()
    first.refuse(record(b"{"), "decode", ContractError("id", "is missing"))
    second.counts["stale"] += 2
    total = BatchResult.total([first, second, second])
    assert [(letter.stage, letter.message) for letter in total.dead_letters] == [("decode", "id: is missing")]
    assert total.counts == {"refused_decode": 1, "stale": 4}
    total.counts["stale"] = 0
    assert second.counts["stale"] == 2


def test_changes_of_different_products_are_united() -> None:
    changes = [FeatureChanges(changed_by={"a": 1}, offers_only=["x"]), FeatureChanges(changed_by={"b": 2})]
    total = FeatureChanges.total(changes)
    assert (total.changed_by, total.offers_only) == ({"a": 1, "b": 2}, ["x"])


def test_a_batch_is_halved_by_product_and_a_single_product_by_update() -> None:
    a1, a2, b1 = received("a", 1, 0), received("a", 2, 1), received("b", 1, 2)
    assert halves({"a": [a1, a2], "b": [b1]}) == [{"a": [a1, a2]}, {"b": [b1]}]
    assert halves({"a": [a1, a2]}) == [{"a": [a1]}, {"a": [a2]}]
    assert halves({"a": [a1]}) == []


def test_the_first_arrival_ignores_superseded_updates_but_not_stale_ones() -> None:
    upsert, patch, later = received("a", 1, 0), received("a", 2, 1, "patch"), received("a", 3, 2)
    assert first_arrival([upsert]) == 1000
    assert first_arrival([upsert, patch]) == 1000
    assert first_arrival([upsert, patch, later]) == 1002
    assert oldest_version([later, upsert]) == 1

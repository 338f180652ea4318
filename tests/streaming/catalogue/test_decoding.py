"""Decoding of a batch: valid updates by product, a dead letter for every other record."""

from __future__ import annotations

import pytest

from streaming.catalogue.decoding import decode_updates
from streaming.kafka.codec import JSON
from tests.streaming.builders import NOW, record, update
from tests.streaming.world import World, stages


def test_updates_are_grouped_by_product_in_the_order_of_their_offsets() -> None:
    records = [record(update("a", 2), 0), record(update("b", 1), 1), record(update("a", 1), 2)]
    by_product, result = decode_updates(records, JSON, NOW)
    assert {i: [r.update.version for r in updates] for i, updates in by_product.items()} == {"a": [2, 1], "b": [1]}
    assert by_product["a"][1].record is records[2]
    assert result.dead_letters == []


def test_bad_records_are_dead_letters_and_unknown_fields_are_counted() -> None:
    with_unknown = JSON.encode(update("a", 1))[:-1] + b',"gtin":"4"}'
    records = [record(b"{"), record(update("p", 1), key=b"other"), record(with_unknown, key=b"a")]
    by_product, result = decode_updates(records, JSON, NOW)
    assert list(by_product) == ["a"]
    assert [letter.record for letter in result.dead_letters] == records[:2]
    assert result.counts == {"refused_decode": 2}
    assert result.unknown_fields == {"gtin": 1}


@pytest.mark.parametrize("key", [None, b"", b"p2", b"\xff\xfe", "p\udc80".encode("utf-8", "surrogatepass")])
def test_a_key_that_is_not_the_product_is_refused(key: bytes | None) -> None:
    """Another key means another partition: two consumers would handle one product at the same time."""
    world = World()
    outcome = world.process(record(update("p1", 1), key=key))
    assert stages(outcome) == ["decode"]
    assert "key" in outcome.dead_letters[0].message
    assert world.store.views["text"] == {}


def test_unknown_fields_are_counted() -> None:
    raw = b'{"id":"p1","version":1,"event_time":"2026-05-01T00:00:00Z","title":"t","gtin":"4"}'
    outcome = World().process(record(raw, key=b"p1"))
    assert outcome.dead_letters == []
    assert outcome.unknown_fields == {"gtin": 1}

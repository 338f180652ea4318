"""The codec of a connection: JSON by default, and every publisher encodes with it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from streaming.contracts import Event, ProductOffer, ProductUpdate
from streaming.errors import ContractError
from streaming.kafka.codec import JSON
from streaming.kafka.connection import Connection
from tests.streaming.builders import NOW, update

OFFER = ProductOffer(id="p", version=1, amount_minor=5, currency="EUR", source_time=5)
EVENT = Event(event_id="e", kind="click", unit_id="u", event_time=NOW, product_id="p", surface="user")


def test_a_connection_speaks_json_unless_it_is_given_a_codec() -> None:
    assert Connection("kafka:9092").codec is JSON


@pytest.mark.parametrize("message", [update("p", 1, brand=None), OFFER, EVENT], ids=lambda m: type(m).__name__)
def test_json_returns_the_message_that_it_encoded(message: Any) -> None:
    assert JSON.decode(type(message), JSON.encode(message)) == message


def test_unknown_fields_are_dropped_and_counted() -> None:
    unknown: Counter[str] = Counter()
    value = JSON.encode(update("p", 1))[:-1] + b',"gtin":"4"}'
    assert JSON.decode(ProductUpdate, value, unknown) == update("p", 1)
    assert unknown == {"gtin": 1}
    assert JSON.decode(ProductOffer, JSON.encode(OFFER)[:-1] + b',"rating":5}') == OFFER


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        (None, "the record has no value"),
        (b"{", "not JSON"),
        (b'{"id":"a","version":"x","source_time":1}', "version: Expected `int`"),
        (b"\x00\x00\x00\x00\x01{}", "SAGELIFT_SCHEMA_REGISTRY__URL"),
    ],
)
def test_a_value_that_holds_no_such_message_is_refused_with_the_reason(value: bytes | None, rule: str) -> None:
    with pytest.raises(ContractError, match=rule):
        JSON.decode(ProductOffer, value)

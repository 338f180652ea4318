"""The contracts: valid messages survive a round trip, invalid ones are refused by field and rule."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from streaming.contracts import Event, ProductUpdate, ProductVector, image_links
from streaming.errors import ContractError
from streaming.kafka.codec import JSON
from tests.streaming.builders import NOW, decode_event, decode_update, price, update
from tests.streaming.invalid_updates import INVALID_UPDATES, cost, literally, raw


@pytest.mark.parametrize(("value", "field", "rule"), INVALID_UPDATES.values(), ids=INVALID_UPDATES.keys())
def test_bad_updates_are_refused_by_field_and_rule(value: bytes | None, field: str, rule: str) -> None:
    with pytest.raises(ContractError) as caught:
        decode_update(value, now=NOW)
    assert caught.value.field == field
    assert rule in caught.value.rule
    assert len(str(caught.value)) < 500


def test_an_update_comes_back_as_it_was_sent() -> None:
    sent = update(
        "p1",
        7,
        title="Größe 鞋",
        product_type=["Home", "Tables"],
        image_link="https://x/a.png",
        additional_image_link=["https://x/b.png"],
        price=price("12.30"),
        availability="in_stock",
        brand=None,
    )
    got = decode_update(JSON.encode(sent), now=NOW)
    assert got == sent
    assert got.price is not None
    assert got.price.amount_minor == 1230
    assert got.brand is None


def test_a_number_keeps_the_decimals_that_were_sent() -> None:
    """0.1 as a JSON number must not pass through a binary float."""
    got = decode_update(literally(b'{"amount":0.1,"currency":"EUR"}', b"price"), now=NOW)
    assert got.price.amount_minor == 10


def test_a_field_left_out_of_a_patch_is_not_one_set_to_null() -> None:
    got = decode_update(raw(op="patch", title=..., brand=None), now=NOW)
    assert got.brand is None
    assert got.title is not None
    assert b"title" not in JSON.encode(got)
    assert json.loads(JSON.encode(got))["brand"] is None


def test_versions_may_be_sequence_numbers_or_microseconds_of_today() -> None:
    for version in (1, int((NOW + timedelta(hours=23)).timestamp() * 1e6)):
        assert decode_update(raw(version=version), now=NOW).version == version


def test_unknown_fields_are_dropped_and_counted_and_all_others_are_exact() -> None:
    unknown: Counter[str] = Counter()
    plain = decode_update(raw(**cost("12.30"), brand=None), now=NOW, unknown=unknown)
    assert not unknown
    more = raw(**cost("12.30"), brand=None, colour="red", gtin={"deep": [1, {"id": "x"}]})
    assert decode_update(more, now=NOW, unknown=unknown) == plain
    assert decode_update(more, now=NOW) == plain
    assert unknown == {"colour": 1, "gtin": 1}


def test_a_message_with_unknown_fields_is_validated_all_the_same() -> None:
    with pytest.raises(ContractError, match=r"version: .*>= 1"):
        decode_update(raw(colour="red", version=0), now=NOW)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"image_link": "a"}, ["a"]),
        ({"image_link": "a", "additional_image_link": ["b", "", "c"]}, ["a", "b", "c"]),
        ({"additional_image_link": ["b"]}, ["b"]),
        ({"image_link": None}, []),
        ({"image_link": "", "additional_image_link": None}, []),
    ],
)
def test_images_are_stated_together_or_not_at_all(fields: dict[str, Any], expected: list[str] | None) -> None:
    assert image_links(update("p1", 1, **fields)) == expected


def test_vectors_travel_as_float16_and_come_back_within_its_precision() -> None:
    rng = np.random.default_rng(0)
    vector = rng.normal(size=256)
    vector /= np.linalg.norm(vector)
    sent = ProductVector(
        id="p1", version=7, model_version="1", content_hash="h", vector=ProductVector.pack(vector), source_time=5
    )
    got = JSON.decode(ProductVector, JSON.encode(sent))
    assert got == sent
    np.testing.assert_allclose(got.unpack(), vector, atol=2**-12)
    assert got.unpack().dtype == np.float32


@pytest.mark.parametrize("wire", ["", "AAA", "not base64!", "AAAA", "ÄÄÄÄ"])
def test_an_invalid_vector_is_refused(wire: str) -> None:
    sent = ProductVector(id="p", version=1, model_version="1", content_hash="", vector=wire, source_time=0)
    with pytest.raises(ContractError, match="vector"):
        sent.unpack()


def event(**fields: Any) -> bytes:
    base = {"event_id": "e1", "kind": "click", "unit_id": "u1", "event_time": "2026-05-01T00:00:00Z"}
    base |= {"product_id": "p1", "surface": "user"}
    return json.dumps({k: v for k, v in {**base, **fields}.items() if v is not ...}).encode()


BAD_EVENTS = {
    "broken JSON": (b"{", "", "not JSON"),
    "no event id": (event(event_id=...), "", "event_id"),
    "an empty event id": (event(event_id=""), "event_id", "length >= 1"),
    "no unit": (event(unit_id=...), "", "unit_id"),
    "a unit with NUL": (event(unit_id="u\x00"), "unit_id", "regex"),
    "a lone surrogate": (event(query="\ud800"), "", "not JSON"),
    "an unknown kind": (event(kind="hover"), "kind", "Invalid enum value"),
    "a click on nothing": (event(product_id=...), "product_id", "required for kind 'click'"),
    "a click nowhere": (event(surface=...), "surface", "required for kind 'click'"),
    "an exposure of nothing": (event(kind="exposure"), "experiment", "required"),
    "a config version beyond 32 bits": (event(config_version=2**31), "config_version", "<="),
    "an order without amount": (event(kind="order", order_id="o", currency="EUR"), "amount_minor", "required"),
    "a negative amount": (event(amount_minor=-1), "amount_minor", ">= 0"),
    "an unknown currency": (event(currency="XYZ"), "currency", "ISO 4217"),
    "from the far future": (event(event_time="2027-01-01T00:00:00Z"), "event_time", "more than a day"),
    "before the epoch": (event(event_time="1969-12-31T23:59:59Z"), "event_time", "before 1970"),
    "an absurdly long query": (event(query="x" * 2001), "query", "length <= 2000"),
}


@pytest.mark.parametrize(("value", "field", "rule"), BAD_EVENTS.values(), ids=BAD_EVENTS.keys())
def test_bad_events_are_refused_by_field_and_rule(value: bytes, field: str, rule: str) -> None:
    with pytest.raises(ContractError) as caught:
        decode_event(value, now=NOW)
    assert caught.value.field == field
    assert rule in caught.value.rule


def test_an_event_comes_back_as_it_was_sent_without_its_unknown_fields() -> None:
    sent = Event(
        event_id="e1",
        kind="refund",
        unit_id="u1",
        event_time=datetime(2026, 5, 1, 1, 2, 3, 456789, tzinfo=UTC),
        order_id="o1",
        amount_minor=199,
        currency="EUR",
    )
    assert decode_event(JSON.encode(sent), now=NOW) == sent
    unknown: Counter[str] = Counter()
    more = json.dumps({**json.loads(JSON.encode(sent)), "session": 5}).encode()
    assert decode_event(more, now=NOW, unknown=unknown) == sent
    assert unknown == {"session": 1}


def test_the_contract_names_every_attribute_that_the_model_reads() -> None:
    from inference.inputs import TEXT_FIELDS

    assert set(TEXT_FIELDS) - {"domain"} <= set(ProductUpdate.__struct_fields__)

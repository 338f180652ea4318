"""The published schemas are those of this code, and accept what the decoder accepts."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fastavro
import jsonschema_rs
import numpy as np
import pytest

from streaming.contracts import Event, ProductOffer, ProductUpdate, ProductVector
from streaming.dead_letters.writer import DeadLetterWriter, FailedRecord
from streaming.kafka.codec import JSON
from streaming.kafka.schema_registry.schemas import avro_schema, avro_schemas, json_schemas, write_schemas
from tests.streaming.builders import NOW, Record, price, update
from tests.streaming.invalid_updates import INVALID_UPDATES

DOCS = Path(__file__).parents[4] / "docs" / "reference" / "schemas"

VECTOR = ProductVector(
    id="p", version=1, model_version="1", content_hash="h", vector=ProductVector.pack(np.ones(256)), source_time=5
)
EVENT = Event(event_id="e", kind="click", unit_id="u", event_time=NOW, product_id="p", surface="user")
GOOD: dict[str, list[Any]] = {
    "product-update": [
        update("p", 1, price=price("9.99"), additional_image_link=["a"], brand=None),
        update("p", 1, "patch", availability="in_stock"),
        update("p", 1, "delete"),
    ],
    "product-embedding": [VECTOR],
    "event": [EVENT],
}


def valid(name: str, value: bytes) -> bool:
    return bool(jsonschema_rs.is_valid(json_schemas()[name], json.loads(value), validate_formats=True))


def test_the_documentation_holds_the_schemas_of_this_code(tmp_path: Path) -> None:
    """`sagelift stream schema --write docs/reference/schemas` writes them."""
    written = {path.name: path.read_text() for path in write_schemas(tmp_path)}
    assert {name: (DOCS / name).read_text() for name in written} == written


@pytest.mark.parametrize("name", list(json_schemas()))
def test_each_is_a_json_schema(name: str) -> None:
    jsonschema_rs.meta.validate(json_schemas()[name])


@pytest.mark.parametrize("name", list(avro_schemas()))
def test_each_is_an_avro_schema(name: str) -> None:
    fastavro.parse_schema(avro_schemas()[name])


@pytest.mark.parametrize("name", list(GOOD))
def test_our_messages_are_valid(name: str) -> None:
    assert all(valid(name, JSON.encode(message)) for message in GOOD[name])


def test_a_field_that_the_contract_does_not_name_is_allowed() -> None:
    """The decoder drops such a field, so that producers can be upgraded before their readers."""
    assert valid("product-update", JSON.encode(update("p", 1))[:-1] + b',"colour_code":7}')


def is_json(value: bytes) -> bool:
    try:
        json.dumps(json.loads(value), ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return False
    return True


# What only the decoder knows: the clock, NUL inside texts, currencies and their decimals.
_BEYOND_A_SCHEMA = ("NUL in", "far future", "before the epoch", "nanoseconds")
_STATABLE = {
    name: value
    for name, (value, field, _) in INVALID_UPDATES.items()
    if value and len(value) < 900_000 and is_json(value)
    if not field.startswith("price") and not any(words in name for words in _BEYOND_A_SCHEMA)
}


@pytest.mark.parametrize("value", _STATABLE.values(), ids=list(_STATABLE))
def test_a_message_that_the_decoder_refuses_is_invalid(value: bytes) -> None:
    assert not valid("product-update", value)


@pytest.mark.parametrize("kind", ["exposure", "impression", "click", "save", "add_to_cart", "order", "refund"])
def test_an_event_without_a_field_that_its_kind_requires_is_invalid(kind: str) -> None:
    assert not valid("event", json.dumps({**json.loads(JSON.encode(EVENT)), "kind": kind, "product_id": None}).encode())


def test_the_headers_of_a_dead_letter_are_as_described() -> None:
    sent: list[Any] = []

    class Producer:
        def send(self, topic: str, **record: Any) -> Any:
            sent.append(record)
            return self

        def flush(self, timeout: float) -> None: ...
        def get(self, timeout: float) -> None: ...

    letter = FailedRecord(Record(key=b"k", value=b"v", offset=7), "decode", "ContractError", "id: must be text")
    DeadLetterWriter(Producer(), "group", lambda: datetime(2026, 5, 4, tzinfo=UTC)).send_all([letter])  # type: ignore[arg-type]
    headers = {name: value.decode() for name, value in sent[0]["headers"]}
    assert valid("dead-letter", json.dumps(headers).encode())
    del headers["__connect.errors.stage"]
    assert not valid("dead-letter", json.dumps(headers).encode())
    described = set(json_schemas()["dead-letter"]["properties"])
    assert {name for name, _ in sent[0]["headers"]} <= described


@pytest.mark.parametrize("contract", [ProductUpdate, ProductVector, ProductOffer, Event])
def test_the_avro_record_has_every_field_of_its_contract(contract: Any) -> None:
    names = [field["name"] for field in avro_schema(contract)["fields"]]
    assert names[: len(contract.__struct_fields__)] == list(contract.__struct_fields__)

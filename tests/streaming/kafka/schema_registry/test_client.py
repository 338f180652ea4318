"""The client of a schema registry: what it asks for once, and what it asks for again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from streaming.errors import RegistryError
from streaming.kafka.schema_registry.client import SchemaRegistry
from tests.streaming.schema_registry import Registry

RECORD: dict[str, Any] = {"type": "record", "name": "R", "fields": []}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server() -> Iterator[Registry]:
    with Registry() as registry:
        yield registry


@pytest.fixture
def client(server: Registry, clock: Clock) -> Iterator[SchemaRegistry]:
    with SchemaRegistry(server.url, clock=clock) as registry:
        yield registry


def test_the_schema_of_an_id_is_requested_once(server: Registry, client: SchemaRegistry, clock: Clock) -> None:
    schema_id = server.add("t-value", RECORD)
    for _ in range(2):
        clock.now += 1000
        schema = client.find(schema_id, "t-value")
        assert schema is not None
        assert (schema.type, schema.subjects, schema.references) == ("AVRO", {"t-value"}, False)
    assert server.requests == ["GET /schemas/ids/1", "GET /schemas/ids/1/versions"]


def test_an_unknown_id_is_requested_again_after_a_while(server: Registry, client: SchemaRegistry, clock: Clock) -> None:
    assert client.find(1, "t-value") is client.find(1, "t-value") is None
    assert server.requests == ["GET /schemas/ids/1"]
    server.add("t-value", RECORD)
    clock.now += 31
    assert client.find(1, "t-value") is not None


def test_a_schema_without_the_expected_subject_is_requested_again_after_a_while(
    server: Registry, client: SchemaRegistry, clock: Clock
) -> None:
    schema_id = server.add("other-value", RECORD)
    schema = client.find(schema_id, "t-value")
    assert schema is not None
    assert schema.subjects == {"other-value"}
    server.add("t-value", RECORD)
    clock.now += 31
    schema = client.find(schema_id, "t-value")
    assert schema is not None
    assert schema.subjects == {"other-value", "t-value"}


def test_a_schema_is_looked_up_before_it_is_registered(server: Registry, client: SchemaRegistry) -> None:
    schema_id = client.register("t-value", "AVRO", RECORD)
    assert client.register("t-value", "AVRO", RECORD) == schema_id
    assert [r for r in server.requests if r.endswith("/versions")] == ["POST /subjects/t-value/versions"]


def test_a_registry_that_is_down_is_an_error_and_not_cached(server: Registry, client: SchemaRegistry) -> None:
    schema_id = server.add("t-value", RECORD)
    server.down = True
    with pytest.raises(RegistryError, match="answers 503"):
        client.find(schema_id, "t-value")
    server.down = False
    assert client.find(schema_id, "t-value") is not None

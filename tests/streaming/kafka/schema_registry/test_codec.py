"""Confluent's wire format against a registry over HTTP: there and back, evolution, and every way that it goes wrong."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import fastavro
import numpy as np
import pytest

from streaming.contracts import Event, ProductUpdate, ProductVector, decode_event, decode_update, decode_vector, encode
from streaming.errors import ContractError, RegistryError, SchemaError
from streaming.kafka.schema_registry.client import SchemaRegistry
from streaming.kafka.schema_registry.codec import Format, RegistryWire, framed_id
from streaming.kafka.schema_registry.schemas import avro_schema, json_schema
from streaming.vectors.offer_topic import ProductOffer, decode_offer
from tests.streaming.fakes import NOW, price, update
from tests.streaming.schema_registry import Registry, Schema

UPDATES, SUBJECT = "catalog.updates", "catalog.updates-value"
FULL = update(
    "Größe", 7, price=price("9.99"), availability="in_stock", additional_image_link=["a", "b"], product_type=["A", "B"]
)
EVENT = Event(event_id="e", kind="order", unit_id="u", event_time=NOW, order_id="o", amount_minor=5, currency="EUR")


class Wired:
    """A registry, and wires that use it."""

    def __init__(self, server: Registry) -> None:
        self.server, self.now = server, 1000.0
        self.client = SchemaRegistry(server.url, clock=lambda: self.now)

    def wire(self, written: Format = "avro") -> RegistryWire:
        return RegistryWire(self.client, written)


@pytest.fixture
def wired() -> Iterator[Wired]:
    with Registry() as server:
        it = Wired(server)
        yield it
        it.client.close()


def avro(schema: dict[str, Any], row: dict[str, Any], schema_id: int) -> bytes:
    """What any other producer's Avro serializer writes."""
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), row)
    return b"\x00" + schema_id.to_bytes(4, "big") + out.getvalue()


def read(wire: RegistryWire, value: bytes, unknown: Counter[str] | None = None) -> ProductUpdate:
    return decode_update(wire.plain(UPDATES, value, unknown), now=NOW, unknown=unknown)


@pytest.mark.parametrize("written", ["json_schema", "avro"])
@pytest.mark.parametrize(
    "message",
    [
        FULL,
        update("p", 1, "patch", brand=None, color="", price=None, image_link=None),
        update("p", 1, "patch", availability="out_of_stock"),
        update("p", 1, "delete"),
    ],
    ids=["full", "a patch that empties", "a patch", "a deletion"],
)
def test_an_update_comes_back_as_it_was(wired: Wired, written: Format, message: ProductUpdate) -> None:
    """What is not stated stays apart from what is empty, in Avro too."""
    wire = wired.wire(written)
    value = wire.encode(message)
    assert value[:5] == b"\x00\x00\x00\x00\x01"
    assert read(wire, value) == message


@pytest.mark.parametrize("written", ["json_schema", "avro"])
def test_the_other_contracts_come_back_as_they_were(wired: Wired, written: Format) -> None:
    wire = wired.wire(written)
    vector = np.linspace(-1, 1, 256).astype(np.float32)
    packed = ProductVector(
        id="p", version=1, model_version="3", content_hash="h", vector=ProductVector.pack(vector), source_time=5
    )
    offer = ProductOffer(id="p", version=1, amount_minor=5, currency="EUR", product_type="A > B", source_time=5)
    assert decode_event(wire.plain("events", wire.encode(EVENT)), now=NOW) == EVENT
    assert decode_vector(wire.plain("product.embeddings", wire.encode(packed)) or b"") == packed
    assert decode_offer(wire.plain("product.offers", wire.encode(offer)) or b"") == offer
    assert wired.server.subjects.keys() == {"events-value", "product.embeddings-value", "product.offers-value"}


def test_an_embedding_is_half_as_long_in_avro(wired: Wired) -> None:
    message = ProductVector(
        id="p", version=1, model_version="3", content_hash="h", vector=ProductVector.pack(np.ones(256)), source_time=5
    )
    assert len(wired.wire("avro").encode(message)) < 540 < 700 < len(encode(message))


def test_bare_json_is_read_beside_framed_messages(wired: Wired) -> None:
    """A topic keeps what was written before the registry was configured; nobody is asked about it."""
    wire = wired.wire("avro")
    assert read(wire, encode(FULL)) == FULL
    assert read(wire, b"\n " + encode(FULL)) == FULL
    assert wired.wire("plain").encode(FULL) == encode(FULL)
    assert wire.plain(UPDATES, None) is None
    assert wired.server.requests == []


def test_a_schema_is_asked_for_once(wired: Wired) -> None:
    wire = wired.wire("avro")
    values = [wire.encode(update(f"p{i}", 1)) for i in range(20)]
    assert [m for m in wired.server.requests if m.startswith("POST")] == [
        f"POST /subjects/{SUBJECT}",
        f"POST /subjects/{SUBJECT}/versions",
    ]
    wired.server.requests.clear()
    for value in values:
        read(wire, value)
    assert wired.server.requests == ["GET /schemas/ids/1", "GET /schemas/ids/1/versions"]


# ------------------------------------------------------------------------------------------------------- evolution


def theirs(*more: dict[str, Any], without: tuple[str, ...] = ()) -> dict[str, Any]:
    """Another team's schema of an update: its own namespace, its own order, some fields of ours, some more."""
    ours = avro_schema(ProductUpdate)
    fields = [f for f in reversed(ours["fields"]) if f["name"] not in without]
    return {"type": "record", "name": "ProductUpdate", "namespace": "com.acme", "fields": [*more, *fields]}


def row(**fields: Any) -> dict[str, Any]:
    return {"id": "p", "version": 1, "event_time": NOW, "title": "t", **fields}


def test_fields_that_only_the_writer_has_are_kept_out_and_counted(wired: Wired) -> None:
    schema = theirs({"name": "colour_code", "type": "int"}, {"name": "shelf", "type": "string"})
    number, unknown = wired.server.add(SUBJECT, schema), Counter[str]()
    for _ in range(2):
        found = read(wired.wire(), avro(schema, row(colour_code=7, shelf="B"), number), unknown)
        assert (found.id, found.title) == ("p", "t")
    assert unknown == {"colour_code": 2, "shelf": 2}


def test_fields_that_the_writer_does_not_have_are_not_stated(wired: Wired) -> None:
    schema = theirs(without=("brand", "price", "cleared", "op"))
    found = read(wired.wire(), avro(schema, row(), wired.server.add(SUBJECT, schema)))
    assert found == ProductUpdate(id="p", version=1, event_time=NOW, title="t")


def test_a_narrower_number_and_another_unit_of_time_are_read_by_their_schema(wired: Wired) -> None:
    schema = theirs(
        {"name": "version", "type": "int"},
        {"name": "event_time", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        without=("version", "event_time"),
    )
    found = read(wired.wire(), avro(schema, row(version=12), wired.server.add(SUBJECT, schema)))
    assert (found.version, found.event_time) == (12, NOW)


@pytest.mark.parametrize(
    ("schema", "fields"),
    [
        (theirs(without=("id",)), {}),
        (theirs({"name": "version", "type": "string"}, without=("version",)), {"version": "1"}),
        (theirs() | {"name": "Item"}, {}),
    ],
    ids=["no id", "a version as text", "another record"],
)
def test_a_writers_schema_that_does_not_resolve_to_ours_is_refused(
    wired: Wired, schema: dict[str, Any], fields: dict[str, Any]
) -> None:
    value = avro(schema, row(**fields), wired.server.add(SUBJECT, schema))
    with pytest.raises(ContractError, match="not Avro by schema 1 that ours can read"):
        read(wired.wire(), value)


def test_what_avro_lets_through_meets_the_rules_of_the_contract(wired: Wired) -> None:
    schema = avro_schema(ProductUpdate)
    number = wired.server.add(SUBJECT, schema)
    for fields, rule in (
        ({"id": ""}, "id: .*length >= 1"),
        ({"version": -1}, "version: .*>= 1"),
        ({"op": "replace"}, "op: .*Invalid enum"),
        ({"price": {"amount": "-1", "currency": "EUR"}}, r"price\.amount: -1 must be"),
        ({"brand": "a\x00"}, "brand: holds a NUL"),
        ({"cleared": ["id"]}, "id: Expected `str`"),
        ({"title": None}, "title: an upsert"),
    ):
        with pytest.raises(ContractError, match=rule):
            read(wired.wire(), avro(schema, row(**fields), number))


# ------------------------------------------------------------------------------------------------- what goes wrong


def refused(wire: RegistryWire, value: bytes, topic: str = UPDATES) -> str:
    with pytest.raises(ContractError) as raised:
        decode_update(wire.plain(topic, value), now=NOW)
    return str(raised.value)


def test_what_is_neither_json_nor_framed_is_refused(wired: Wired) -> None:
    for value in (b"\x00", b"\x00\x00\x00\x00\x01", b"\x01\x00\x00\x00\x01{}", b"\x05{}"):
        assert f"begins with {value[:5].hex(' ')}: neither JSON nor the magic byte" in refused(wired.wire(), value)
    assert wired.server.requests == []


def test_an_id_that_the_registry_does_not_know_is_refused_and_not_asked_for_each_time(wired: Wired) -> None:
    wire = wired.wire()
    for _ in range(3):
        assert refused(wire, b"\x00\x00\x00\x00\x07{}") == "the schema registry knows no schema with the id 7"
    assert wired.server.requests == ["GET /schemas/ids/7"]
    value = wire.encode(FULL)
    wired.now += 31
    for _ in range(6):
        wired.server.add("other-value", {"type": "record", "name": f"R{len(wired.server.schemas)}", "fields": []})
    refused(wire, b"\x00\x00\x00\x00\x07" + value[5:])
    assert wired.server.requests[-2:] == ["GET /schemas/ids/7", "GET /schemas/ids/7/versions"], "asked again later"


def test_a_schema_of_another_subject_is_refused(wired: Wired) -> None:
    """An event on the topic of updates, say: whatever it may parse as."""
    wire = wired.wire("json_schema")
    assert refused(wire, wire.encode(EVENT)) == (
        "schema 1 is of the subjects events-value; catalog.updates takes those of catalog.updates-value"
    )


def test_a_schema_that_gets_our_subject_later_is_taken_then(wired: Wired) -> None:
    schema = avro_schema(ProductUpdate)
    wire, number = wired.wire(), wired.server.add("feed-value", schema)
    value = avro(schema, row(), number)
    refused(wire, value)
    assert wired.server.add(SUBJECT, schema) == number
    wired.now += 31
    assert read(wire, value).id == "p"


@pytest.mark.parametrize("kind", ["PROTOBUF", "XML"])
def test_other_kinds_of_schemas_are_refused(wired: Wired, kind: str) -> None:
    number = wired.server.add(SUBJECT, {}, kind)
    assert f"schema 1 is {kind}; JSON Schema and Avro" in refused(
        wired.wire(), b"\x00" + number.to_bytes(4, "big") + b"x"
    )


def test_a_schema_that_refers_to_others_is_refused(wired: Wired) -> None:
    wired.server.schemas.append(Schema("AVRO", json.dumps(avro_schema(ProductUpdate)), '[{"name": "a"}]'))
    wired.server.subjects[SUBJECT] = [1]
    assert "schema 1 refers to other schemas" in refused(wired.wire(), b"\x00\x00\x00\x00\x01x")


def test_a_registry_that_is_down_blames_no_message_and_the_same_message_passes_later(wired: Wired) -> None:
    wire = wired.wire()
    value = wire.encode(FULL)
    wired.server.down = True
    for _ in range(2):
        with pytest.raises(RegistryError, match=r"answers 503 at .*: 'Error while forwarding"):
            wire.plain(UPDATES, value)
    wired.server.down = False
    assert read(wire, value) == FULL
    wired.server.down = True
    assert read(wire, value) == FULL, "what an id stands for does not change"


def test_a_registry_that_is_not_there_is_named(wired: Wired) -> None:
    with Registry() as gone:
        pass
    with (
        SchemaRegistry(gone.url) as client,
        pytest.raises(RegistryError, match=rf"{gone.url} does not answer .*__URL"),
    ):
        RegistryWire(client, "avro").encode(FULL)


def test_one_of_several_addresses_is_enough(wired: Wired) -> None:
    with Registry() as gone:
        pass
    with SchemaRegistry(f"{gone.url}, {wired.server.url}/") as client:
        assert framed_id(RegistryWire(client, "avro").encode(FULL)) == 1


def test_broken_avro_is_refused_whatever_is_broken(wired: Wired) -> None:
    wire = wired.wire("avro")
    whole = wire.encode(FULL)
    for cut in range(6, len(whole)):
        assert "not Avro by schema 1" in refused(wire, whole[:cut])
    assert "2 bytes follow the Avro record" in refused(wire, whole + b"ab")
    rng = np.random.default_rng(0)
    for _ in range(300):  # whatever comes out of it, it is an update or a refusal
        broken = bytearray(whole)
        broken[int(rng.integers(5, len(whole)))] = int(rng.integers(256))
        try:
            assert isinstance(read(wire, bytes(broken)), ProductUpdate)
        except ContractError:
            continue


def test_a_message_above_the_limit_is_refused_before_it_is_read(wired: Wired) -> None:
    assert "at most 1000000 are allowed" in refused(wired.wire(), b"\x00\x00\x00\x00\x09" + b"x" * 1_000_000)
    assert wired.server.requests == []


# ------------------------------------------------------------------------------------------------------- registering


def test_an_incompatible_schema_is_told_with_the_registrys_reason(wired: Wired) -> None:
    wired.server.add(SUBJECT, {"type": "record", "name": "ProductUpdate", "fields": [{"name": "id", "type": "int"}]})
    with pytest.raises(SchemaError, match=r"AVRO schema of subject catalog\.updates-value: .*TYPE_MISMATCH 'id'"):
        wired.wire("avro").encode(FULL)


def test_an_older_json_schema_of_the_subject_bars_a_newer_with_more_properties_as_confluents_does(wired: Wired) -> None:
    older = json_schema(ProductUpdate)
    del older["properties"]["refresh_images"]
    wired.server.add(SUBJECT, older, "JSON")
    with pytest.raises(SchemaError, match=r"PROPERTY_ADDED_TO_OPEN_CONTENT_MODEL \['refresh_images'\]"):
        wired.wire("json_schema").encode(FULL)


def test_avro_may_gain_optional_fields(wired: Wired) -> None:
    older = avro_schema(ProductUpdate)
    older["fields"] = [field for field in older["fields"] if field["name"] not in ("refresh_images", "brand")]
    wired.server.add(SUBJECT, older)
    assert framed_id(wired.wire("avro").encode(FULL)) == 2


def test_a_user_who_may_only_read_uses_what_another_registered() -> None:
    with Registry(("ada", "hunter2"), read_only=True) as server:
        number = server.add(SUBJECT, avro_schema(ProductUpdate))
        with SchemaRegistry(server.url, username="ada", password="hunter2") as client:
            wire = RegistryWire(client, "avro")
            assert framed_id(wire.encode(FULL)) == number
            with pytest.raises(RegistryError, match=r"does not let us in \(403\)"):
                wire.encode(EVENT)


def test_a_wrong_password_is_told_and_not_shown() -> None:
    with (
        Registry(("ada", "hunter2")) as server,
        SchemaRegistry(server.url, username="ada", password="secret") as client,
    ):
        with pytest.raises(RegistryError, match=r"does not let us in \(401\).*__PASSWORD") as raised:
            RegistryWire(client, "avro").encode(FULL)
        assert "secret" not in str(raised.value)


def test_all_contracts_are_registered_at_once(wired: Wired) -> None:
    ids = wired.wire("json_schema").register()
    assert ids == {
        f"{t}-value": i for i, t in enumerate([UPDATES, "product.embeddings", "product.offers", "events"], 1)
    }
    assert wired.wire("json_schema").register() == ids, "again is the same"
    with pytest.raises(SchemaError, match="written plain"):
        wired.wire("plain").register()


def test_times_keep_their_microseconds_in_avro(wired: Wired) -> None:
    at = datetime.fromisoformat("2026-05-04T11:59:59.123457+02:00")
    message = ProductUpdate(id="p", version=1, event_time=at, title="t")
    assert read(wired.wire("avro"), wired.wire("avro").encode(message)).event_time == at

"""Confluent's wire format with a registry over HTTP: round trips, schema evolution and all errors."""

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

from streaming.contracts import Event, ProductOffer, ProductUpdate, ProductVector
from streaming.errors import ContractError, RegistryError, SchemaError
from streaming.kafka.codec import JSON
from streaming.kafka.schema_registry.client import SchemaRegistry
from streaming.kafka.schema_registry.codec import Format, RegistryCodec, framed_id
from streaming.kafka.schema_registry.schemas import avro_schema, json_schema
from tests.streaming.builders import NOW, decode_event, decode_update, price, update
from tests.streaming.schema_registry import Registry, Schema

UPDATES, SUBJECT = "catalog.updates", "catalog.updates-value"
FULL = update(
    "Größe", 7, price=price("9.99"), availability="in_stock", additional_image_link=["a", "b"], product_type=["A", "B"]
)
EVENT = Event(event_id="e", kind="order", unit_id="u", event_time=NOW, order_id="o", amount_minor=5, currency="EUR")


class Wired:
    """A registry, and codecs that use it."""

    def __init__(self, server: Registry) -> None:
        self.server, self.now = server, 1000.0
        self.client = SchemaRegistry(server.url, clock=lambda: self.now)

    def codec(self, written: Format = "avro") -> RegistryCodec:
        return RegistryCodec(self.client, written)


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


def read(codec: RegistryCodec, value: bytes, unknown: Counter[str] | None = None) -> ProductUpdate:
    return decode_update(value, unknown=unknown, codec=codec)


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
    """Attributes that are not stated stay distinct from empty ones, in Avro too."""
    codec = wired.codec(written)
    value = codec.encode(message)
    assert value[:5] == b"\x00\x00\x00\x00\x01"
    assert read(codec, value) == message


@pytest.mark.parametrize("written", ["json_schema", "avro"])
def test_the_other_contracts_come_back_as_they_were(wired: Wired, written: Format) -> None:
    codec = wired.codec(written)
    vector = np.linspace(-1, 1, 256).astype(np.float32)
    packed = ProductVector(
        id="p", version=1, model_version="3", content_hash="h", vector=ProductVector.pack(vector), source_time=5
    )
    offer = ProductOffer(id="p", version=1, amount_minor=5, currency="EUR", product_type="A > B", source_time=5)
    assert decode_event(codec.encode(EVENT), codec=codec) == EVENT
    assert codec.decode(ProductVector, codec.encode(packed)) == packed
    assert codec.decode(ProductOffer, codec.encode(offer)) == offer
    assert wired.server.subjects.keys() == {"events-value", "product.embeddings-value", "product.offers-value"}


def test_an_embedding_is_half_as_long_in_avro(wired: Wired) -> None:
    message = ProductVector(
        id="p", version=1, model_version="3", content_hash="h", vector=ProductVector.pack(np.ones(256)), source_time=5
    )
    assert len(wired.codec("avro").encode(message)) < 540 < 700 < len(JSON.encode(message))


def test_bare_json_is_read_beside_framed_messages(wired: Wired) -> None:
    """A topic keeps messages from before the registry was configured; they need no request."""
    codec = wired.codec("avro")
    assert read(codec, JSON.encode(FULL)) == FULL
    assert read(codec, b"\n " + JSON.encode(FULL)) == FULL
    assert wired.codec("plain").encode(FULL) == JSON.encode(FULL)
    with pytest.raises(ContractError, match="no value"):
        codec.decode(ProductUpdate, None)
    assert wired.server.requests == []


def test_a_schema_is_requested_once(wired: Wired) -> None:
    codec = wired.codec("avro")
    values = [codec.encode(update(f"p{i}", 1)) for i in range(20)]
    assert [m for m in wired.server.requests if m.startswith("POST")] == [
        f"POST /subjects/{SUBJECT}",
        f"POST /subjects/{SUBJECT}/versions",
    ]
    wired.server.requests.clear()
    for value in values:
        read(codec, value)
    assert wired.server.requests == ["GET /schemas/ids/1", "GET /schemas/ids/1/versions"]


# ------------------------------------------------------------------------------------------------------- evolution


def theirs(*more: dict[str, Any], without: tuple[str, ...] = ()) -> dict[str, Any]:
    """Another team's schema of an update: its own namespace, its own order, some fields of ours, some more."""
    ours = avro_schema(ProductUpdate)
    fields = [f for f in reversed(ours["fields"]) if f["name"] not in without]
    return {"type": "record", "name": "ProductUpdate", "namespace": "com.acme", "fields": [*more, *fields]}


def row(**fields: Any) -> dict[str, Any]:
    return {"id": "p", "version": 1, "event_time": NOW, "title": "t", **fields}


def test_fields_that_only_the_writer_has_are_dropped_and_counted(wired: Wired) -> None:
    schema = theirs({"name": "colour_code", "type": "int"}, {"name": "shelf", "type": "string"})
    number, unknown = wired.server.add(SUBJECT, schema), Counter[str]()
    for _ in range(2):
        found = read(wired.codec(), avro(schema, row(colour_code=7, shelf="B"), number), unknown)
        assert (found.id, found.title) == ("p", "t")
    assert unknown == {"colour_code": 2, "shelf": 2}


def test_fields_that_the_writer_does_not_have_are_not_stated(wired: Wired) -> None:
    schema = theirs(without=("brand", "price", "cleared", "op"))
    found = read(wired.codec(), avro(schema, row(), wired.server.add(SUBJECT, schema)))
    assert found == ProductUpdate(id="p", version=1, event_time=NOW, title="t")


def test_a_narrower_number_and_another_unit_of_time_are_read_by_their_schema(wired: Wired) -> None:
    schema = theirs(
        {"name": "version", "type": "int"},
        {"name": "event_time", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        without=("version", "event_time"),
    )
    found = read(wired.codec(), avro(schema, row(version=12), wired.server.add(SUBJECT, schema)))
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
    with pytest.raises(ContractError, match="cannot be read with Avro schema 1 and ours"):
        read(wired.codec(), value)


def test_avro_messages_must_keep_the_rules_of_the_contract(wired: Wired) -> None:
    schema = avro_schema(ProductUpdate)
    number = wired.server.add(SUBJECT, schema)
    for fields, rule in (
        ({"id": ""}, "id: .*length >= 1"),
        ({"version": -1}, "version: .*>= 1"),
        ({"op": "replace"}, "op: .*Invalid enum"),
        ({"price": {"amount": "-1", "currency": "EUR"}}, r"price\.amount: -1 must be"),
        ({"brand": "a\x00"}, "brand: contains a NUL"),
        ({"cleared": ["id"]}, "id: Expected `str`"),
        ({"title": None}, "title: an upsert"),
    ):
        with pytest.raises(ContractError, match=rule):
            read(wired.codec(), avro(schema, row(**fields), number))


# ------------------------------------------------------------------------------------------------- what goes wrong


def refused(codec: RegistryCodec, value: bytes) -> str:
    with pytest.raises(ContractError) as raised:
        decode_update(value, codec=codec)
    return str(raised.value)


def test_a_value_that_is_neither_json_nor_framed_is_refused(wired: Wired) -> None:
    for value in (b"\x00", b"\x00\x00\x00\x00\x01", b"\x01\x00\x00\x00\x01{}", b"\x05{}"):
        assert f"begins with {value[:5].hex(' ')}: neither JSON nor the magic byte" in refused(wired.codec(), value)
    assert wired.server.requests == []


def test_an_unknown_id_is_refused_and_not_requested_each_time(wired: Wired) -> None:
    codec = wired.codec()
    for _ in range(3):
        assert refused(codec, b"\x00\x00\x00\x00\x07{}") == "the schema registry has no schema with the id 7"
    assert wired.server.requests == ["GET /schemas/ids/7"]
    value = codec.encode(FULL)
    wired.now += 31
    for _ in range(6):
        wired.server.add("other-value", {"type": "record", "name": f"R{len(wired.server.schemas)}", "fields": []})
    refused(codec, b"\x00\x00\x00\x00\x07" + value[5:])
    assert wired.server.requests[-2:] == ["GET /schemas/ids/7", "GET /schemas/ids/7/versions"], "asked again later"


def test_a_schema_of_another_subject_is_refused(wired: Wired) -> None:
    """Such as an event on the topic of updates, even if it could be parsed."""
    codec = wired.codec("json_schema")
    assert refused(codec, codec.encode(EVENT)) == (
        "schema 1 belongs to the subjects events-value; catalog.updates needs one of catalog.updates-value"
    )


def test_a_schema_that_is_registered_under_our_subject_later_is_accepted_then(wired: Wired) -> None:
    schema = avro_schema(ProductUpdate)
    codec, number = wired.codec(), wired.server.add("feed-value", schema)
    value = avro(schema, row(), number)
    refused(codec, value)
    assert wired.server.add(SUBJECT, schema) == number
    wired.now += 31
    assert read(codec, value).id == "p"


@pytest.mark.parametrize("kind", ["PROTOBUF", "XML"])
def test_other_kinds_of_schemas_are_refused(wired: Wired, kind: str) -> None:
    number = wired.server.add(SUBJECT, {}, kind)
    assert f"schema 1 is {kind}; only JSON Schema and Avro" in refused(
        wired.codec(), b"\x00" + number.to_bytes(4, "big") + b"x"
    )


def test_a_schema_that_refers_to_others_is_refused(wired: Wired) -> None:
    wired.server.schemas.append(Schema("AVRO", json.dumps(avro_schema(ProductUpdate)), '[{"name": "a"}]'))
    wired.server.subjects[SUBJECT] = [1]
    assert "schema 1 refers to other schemas" in refused(wired.codec(), b"\x00\x00\x00\x00\x01x")


def test_a_registry_that_is_down_is_no_fault_of_a_message_which_passes_later(wired: Wired) -> None:
    codec = wired.codec()
    value = codec.encode(FULL)
    wired.server.down = True
    for _ in range(2):
        with pytest.raises(RegistryError, match=r"answers 503 at .*: 'Error while forwarding"):
            codec.decode(ProductUpdate, value)
    wired.server.down = False
    assert read(codec, value) == FULL
    wired.server.down = True
    assert read(codec, value) == FULL, "what an id stands for does not change"


def test_an_unreachable_registry_is_named(wired: Wired) -> None:
    with Registry() as gone:
        pass
    with (
        SchemaRegistry(gone.url) as client,
        pytest.raises(RegistryError, match=rf"{gone.url} does not answer .*__URL"),
    ):
        RegistryCodec(client, "avro").encode(FULL)


def test_one_of_several_addresses_is_enough(wired: Wired) -> None:
    with Registry() as gone:
        pass
    with SchemaRegistry(f"{gone.url}, {wired.server.url}/") as client:
        assert framed_id(RegistryCodec(client, "avro").encode(FULL)) == 1


def test_damaged_avro_is_refused_wherever_it_is_damaged(wired: Wired) -> None:
    codec = wired.codec("avro")
    whole = codec.encode(FULL)
    for cut in range(6, len(whole)):
        assert "cannot be read with Avro schema 1" in refused(codec, whole[:cut])
    assert "2 bytes follow the Avro record" in refused(codec, whole + b"ab")
    rng = np.random.default_rng(0)
    for _ in range(300):  # whatever comes out of it, it is an update or a refusal
        broken = bytearray(whole)
        broken[int(rng.integers(5, len(whole)))] = int(rng.integers(256))
        try:
            assert isinstance(read(codec, bytes(broken)), ProductUpdate)
        except ContractError:
            continue


def test_a_message_above_the_limit_is_refused_before_it_is_read(wired: Wired) -> None:
    assert "at most 1000000 are allowed" in refused(wired.codec(), b"\x00\x00\x00\x00\x09" + b"x" * 1_000_000)
    assert wired.server.requests == []


# ------------------------------------------------------------------------------------------------------- registering


def test_an_incompatible_schema_is_an_error_with_the_registrys_reason(wired: Wired) -> None:
    wired.server.add(SUBJECT, {"type": "record", "name": "ProductUpdate", "fields": [{"name": "id", "type": "int"}]})
    with pytest.raises(SchemaError, match=r"AVRO schema of subject catalog\.updates-value: .*TYPE_MISMATCH 'id'"):
        wired.codec("avro").encode(FULL)


def test_an_older_json_schema_of_the_subject_excludes_a_newer_one_with_more_properties(wired: Wired) -> None:
    older = json_schema(ProductUpdate)
    del older["properties"]["refresh_images"]
    wired.server.add(SUBJECT, older, "JSON")
    with pytest.raises(SchemaError, match=r"PROPERTY_ADDED_TO_OPEN_CONTENT_MODEL \['refresh_images'\]"):
        wired.codec("json_schema").encode(FULL)


def test_avro_may_gain_optional_fields(wired: Wired) -> None:
    older = avro_schema(ProductUpdate)
    older["fields"] = [field for field in older["fields"] if field["name"] not in ("refresh_images", "brand")]
    wired.server.add(SUBJECT, older)
    assert framed_id(wired.codec("avro").encode(FULL)) == 2


def test_a_user_who_may_only_read_uses_what_another_registered() -> None:
    with Registry(("ada", "hunter2"), read_only=True) as server:
        number = server.add(SUBJECT, avro_schema(ProductUpdate))
        with SchemaRegistry(server.url, username="ada", password="hunter2") as client:
            codec = RegistryCodec(client, "avro")
            assert framed_id(codec.encode(FULL)) == number
            with pytest.raises(RegistryError, match=r"refuses us \(403\)"):
                codec.encode(EVENT)


def test_a_wrong_password_is_an_error_that_does_not_show_it() -> None:
    with (
        Registry(("ada", "hunter2")) as server,
        SchemaRegistry(server.url, username="ada", password="secret") as client,
    ):
        with pytest.raises(RegistryError, match=r"refuses us \(401\).*__PASSWORD") as raised:
            RegistryCodec(client, "avro").encode(FULL)
        assert "secret" not in str(raised.value)


def test_all_contracts_are_registered_at_once(wired: Wired) -> None:
    ids = wired.codec("json_schema").register()
    assert ids == {
        f"{t}-value": i for i, t in enumerate([UPDATES, "product.embeddings", "product.offers", "events"], 1)
    }
    assert wired.codec("json_schema").register() == ids, "again is the same"
    with pytest.raises(SchemaError, match="written plain"):
        wired.codec("plain").register()


def test_times_keep_their_microseconds_in_avro(wired: Wired) -> None:
    at = datetime.fromisoformat("2026-05-04T11:59:59.123457+02:00")
    message = ProductUpdate(id="p", version=1, event_time=at, title="t")
    assert read(wired.codec("avro"), wired.codec("avro").encode(message)).event_time == at

"""The contracts as schemas for others: JSON Schema and Avro, both made from the types that decode the messages.

`docs/schemas/` holds them (`sagelift stream schema --write docs/schemas`), and a schema registry when one is configured
(`streaming.kafka.schema_registry.codec`). What the types cannot state (the clock, a currency's decimals) only the
decoder knows.
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta, inspect

from streaming.contracts import REQUIRED_BY_KIND, Event, ProductUpdate, ProductVector
from streaming.dead_letters.writer import ERRORS, TRUNCATED
from streaming.kafka.topics import CATALOG_UPDATES, EVENTS, PRODUCT_EMBEDDINGS, PRODUCT_OFFERS
from streaming.vectors.offer_topic import ProductOffer

CLEARED = "cleared"
"""Field of an update in Avro: the attributes that it empties. There null says "not stated", as nothing else can."""

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_NAMESPACE = "sagelift"
_Number = Annotated[str, Meta(pattern=r"^[0-9]+$")]


class Contract(NamedTuple):
    """What the values of a topic hold."""

    topic: str
    type: type[msgspec.Struct]


CONTRACTS: dict[str, Contract] = {
    "product-update": Contract(CATALOG_UPDATES, ProductUpdate),
    "product-embedding": Contract(PRODUCT_EMBEDDINGS, ProductVector),
    "product-offer": Contract(PRODUCT_OFFERS, ProductOffer),
    "event": Contract(EVENTS, Event),
}


class DeadLetterHeaders(msgspec.Struct, rename=lambda name: ERRORS + name.replace("_", ".")):
    """Headers of a record on `<topic>.dlq`, as UTF-8 text; its key, value and other headers are the original's.

    Where the failed record is, who could not use it, where and why it failed, how often and when.
    """

    topic: str
    partition: _Number
    offset: _Number
    consumer_group: str
    stage: str
    exception_class_name: str
    exception_message: Annotated[str, Meta(max_length=1_000)]
    attempts: _Number
    time: str
    first_time: str
    truncated_from: _Number | msgspec.UnsetType = msgspec.field(default=msgspec.UNSET, name=TRUNCATED)


def json_schemas() -> dict[str, dict[str, Any]]:
    """The JSON Schema of every contract, by name; `dead-letter` describes headers, the others a record's value."""
    found = {name: json_schema(contract.type) for name, contract in CONTRACTS.items()}
    return found | {"dead-letter": json_schema(DeadLetterHeaders)}


def json_schema(contract: type[msgspec.Struct]) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of one contract, complete in itself."""
    (root,), components = msgspec.json.schema_components([contract], ref_template="#/$defs/{name}")
    schema = deepcopy(components.pop(root["$ref"].rpartition("/")[2]))
    schema.pop("additionalProperties", None)  # what we do not know is kept out and counted, not refused
    schema["description"] = " ".join(schema["description"].split())
    if rules := _RULES.get(contract):
        schema["allOf"] = rules
    return {"$schema": _DIALECT, **schema, **({"$defs": components} if components else {})}


_NOT_NULL = {"not": {"type": "null"}}
_RULES: dict[type[msgspec.Struct], list[dict[str, Any]]] = {
    ProductUpdate: [
        {
            "if": {"not": {"properties": {"op": {"enum": ["patch", "delete"]}}, "required": ["op"]}},
            "then": {"properties": {"title": {"type": "string", "minLength": 1}}, "required": ["title"]},
        }
    ],
    Event: [
        {
            "if": {"properties": {"kind": {"const": kind}}},
            "then": {"properties": dict.fromkeys(names, _NOT_NULL), "required": list(names)},
        }
        for kind, names in REQUIRED_BY_KIND.items()
    ],
}


def avro_schemas() -> dict[str, dict[str, Any]]:
    """The Avro schema of every contract that a topic's values have, by name."""
    return {name: avro_schema(contract.type) for name, contract in CONTRACTS.items()}


def avro_schema(contract: type[msgspec.Struct]) -> dict[str, Any]:
    """The Avro schema of one contract: a record whose optional fields are null by default.

    Texts with few values are strings, not enums: a symbol that an older reader does not know is then one refused
    message with a reason, not a schema that no longer resolves. An amount is decimal text, as in JSON.
    """
    record: dict[str, Any] = _avro(inspect.type_info(contract))
    record["namespace"] = _NAMESPACE
    record["doc"] = " ".join((contract.__doc__ or "").partition("\n\n")[0].split())
    if contract is ProductVector:
        (vector,) = (field for field in record["fields"] if field["name"] == "vector")
        vector.update(type="bytes", doc="256 little-endian float16")
    if contract is ProductUpdate:
        names = {"type": "array", "items": "string"}
        doc = "Attributes that this update empties; one that is null is not stated."
        record["fields"].append({"name": CLEARED, "type": names, "default": [], "doc": doc})
    return record


def write_schemas(folder: Path) -> list[Path]:
    """Write all schemas into a folder, made when missing: `<name>.schema.json` and `<name>.avsc`; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {f"{name}.schema.json": schema for name, schema in json_schemas().items()}
    files |= {f"{name}.avsc": schema for name, schema in avro_schemas().items()}
    for name, schema in files.items():
        (folder / name).write_bytes(msgspec.json.format(msgspec.json.encode(schema)) + b"\n")
    return [folder / name for name in files]


def _avro(kind: inspect.Type) -> Any:
    match kind:
        case inspect.StructType(cls=cls, fields=fields):
            return {"type": "record", "name": cls.__name__, "fields": [_avro_field(field) for field in fields]}
        case inspect.UnionType(types=types):
            return ["null", *(_avro(each) for each in types if not isinstance(each, inspect.NoneType))]
        case inspect.ListType(item_type=item):
            return {"type": "array", "items": _avro(item)}
        case inspect.DictType(value_type=value):
            return {"type": "map", "values": _avro(value)}
        case inspect.DateTimeType():
            return {"type": "long", "logicalType": "timestamp-micros"}
        case inspect.IntType():
            return "long"
        case inspect.BoolType():
            return "boolean"
        case inspect.FloatType():
            return "double"
        case inspect.StrType() | inspect.LiteralType() | inspect.DecimalType():
            return "string"
    raise NotImplementedError(f"a contract has a field of {kind}, which has no form in Avro yet")


def _avro_field(field: inspect.Field) -> dict[str, Any]:
    kind = _avro(field.type)
    made = {"name": field.encode_name, "type": kind}
    if isinstance(kind, list):
        made["default"] = None
    elif not field.required:
        made["default"] = field.default
    return made

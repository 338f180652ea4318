"""The contracts as JSON Schema and Avro for other programs, both derived from the types that decode the messages.

The schemas are in `docs/reference/schemas/` (`sagelift stream schema --write docs/reference/schemas`) and, when one is
configured, in a schema registry (`streaming.kafka.schema_registry.codec`). Only the consumers check what types
cannot express, such as event times in the future and the decimals of a currency.
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec import inspect

from streaming.contracts import (
    REQUIRED_BY_KIND,
    DeadLetterHeaders,
    Event,
    Message,
    ProductOffer,
    ProductUpdate,
    ProductVector,
)
from streaming.kafka.topics import CATALOG_UPDATES, EVENTS, PRODUCT_EMBEDDINGS, PRODUCT_OFFERS

CLEARED = "cleared"
"""Field of an Avro update: the attributes that it empties. A null attribute means "not stated" in Avro."""

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_NAMESPACE = "sagelift"


class Contract(NamedTuple):
    """A topic and the type of its messages."""

    topic: str
    type: type[Message]


CONTRACTS: dict[str, Contract] = {
    "product-update": Contract(CATALOG_UPDATES, ProductUpdate),
    "product-embedding": Contract(PRODUCT_EMBEDDINGS, ProductVector),
    "product-offer": Contract(PRODUCT_OFFERS, ProductOffer),
    "event": Contract(EVENTS, Event),
}


def json_schemas() -> dict[str, dict[str, Any]]:
    """Return the JSON Schema of every contract by name; `dead-letter` describes headers, the others values."""
    schemas = {name: json_schema(contract.type) for name, contract in CONTRACTS.items()}
    return schemas | {"dead-letter": json_schema(DeadLetterHeaders)}


def json_schema(contract: type[msgspec.Struct]) -> dict[str, Any]:
    """Return the self-contained JSON Schema (draft 2020-12) of one contract."""
    (root,), components = msgspec.json.schema_components([contract], ref_template="#/$defs/{name}")
    schema = deepcopy(components.pop(root["$ref"].rpartition("/")[2]))
    schema.pop("additionalProperties", None)  # a decoder drops and counts unknown fields, it does not refuse them
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
    """Return the Avro schema of every topic's messages, by contract name."""
    return {name: avro_schema(contract.type) for name, contract in CONTRACTS.items()}


def avro_schema(contract: type[msgspec.Struct]) -> dict[str, Any]:
    """Return the Avro schema of one contract: a record whose optional fields default to null.

    Fields with few possible texts are strings, not enums. So an older reader refuses only the
    message with an unknown text, with a reason; an unknown enum symbol would make the whole schema fail to resolve. An
    amount is decimal text, as in JSON.
    """
    record: dict[str, Any] = _avro(inspect.type_info(contract))
    record["namespace"] = _NAMESPACE
    record["doc"] = " ".join((contract.__doc__ or "").partition("\n\n")[0].split())
    if contract is ProductVector:
        (vector,) = (field for field in record["fields"] if field["name"] == "vector")
        vector.update(type="bytes", doc="256 little-endian float16")
    if contract is ProductUpdate:
        names = {"type": "array", "items": "string"}
        doc = "Attributes that this update empties. A null attribute is not stated."
        record["fields"].append({"name": CLEARED, "type": names, "default": [], "doc": doc})
    return record


def write_schemas(folder: Path) -> list[Path]:
    """Write all schemas as `<name>.schema.json` and `<name>.avsc`; return the files.

    Args:
        folder: Where to write; created if missing.
    """
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
    raise NotImplementedError(f"a contract has a field of {kind}, which has no Avro type yet")


def _avro_field(field: inspect.Field) -> dict[str, Any]:
    kind = _avro(field.type)
    avro_field = {"name": field.encode_name, "type": kind}
    if isinstance(kind, list):
        avro_field["default"] = None
    elif not field.required:
        avro_field["default"] = field.default
    return avro_field

"""Messages in Confluent's wire format: a zero byte, the schema id in four big-endian bytes, then JSON or Avro.

https://docs.confluent.io/platform/current/schema-registry/fundamentals/serdes-develop/index.html#wire-format.
The first byte distinguishes framed messages from bare JSON, because no JSON text begins with a zero byte. So a topic
may contain both: messages from before the registry was configured, and later ones. The same decoder reads both.
"""

from __future__ import annotations

import base64
import io
import struct
from collections import Counter
from datetime import datetime
from typing import Any, Literal, NamedTuple

import msgspec

from streaming.contracts import MAX_MESSAGE_BYTES, Message, ProductUpdate, ProductVector
from streaming.errors import ContractError, SchemaError
from streaming.kafka.codec import JSON, M
from streaming.kafka.schema_registry.client import RegisteredSchema, SchemaRegistry, SchemaType
from streaming.kafka.schema_registry.schemas import CLEARED, CONTRACTS, Contract, avro_schema, json_schema

MAGIC = 0
Format = Literal["plain", "json_schema", "avro"]
"""How messages are written: framed JSON, framed Avro, or bare JSON ("plain")."""

_HEADER = struct.Struct(">bI")
_BLANKS = b" \t\r\n"
_OF_TYPE: dict[type[msgspec.Struct], Contract] = {contract.type: contract for contract in CONTRACTS.values()}

_json_encoder = msgspec.json.Encoder(decimal_format="string")


def subject_of(topic: str) -> str:
    """Return the subject of a topic's values (Confluent's TopicNameStrategy)."""
    return f"{topic}-value"


def framed_id(value: bytes | None) -> int | None:
    """Return the schema id of a message in the wire format; None for any other message."""
    return _HEADER.unpack_from(value)[1] if value and value[0] == MAGIC and len(value) > _HEADER.size else None


class _WriterSchema(NamedTuple):
    """An Avro schema that a producer wrote with, and the names of its fields that our schema does not have."""

    parsed: Any
    unknown: tuple[str, ...]


class RegistryCodec:
    """A `streaming.kafka.codec.Codec` that frames messages with the ids of a schema registry.

    Args:
        registry: Client of the schema registry.
        written: Format of the messages that this process writes. It reads all formats.
    """

    def __init__(self, registry: SchemaRegistry, written: Format = "json_schema") -> None:
        self._registry, self._written = registry, written
        self._ids: dict[type[Message], int] = {}  # of the schemas that we write with
        self._writer_schemas: dict[tuple[int, str], _WriterSchema] = {}
        self._own_schemas: dict[type[Message], Any] = {}  # parsed Avro

    def encode(self, message: Message) -> bytes:
        """Return the message in the wire format; the first message of a type registers its schema.

        Raises:
            SchemaError: The registry does not accept our schema.
            RegistryError: The registry does not answer.
        """
        if self._written == "plain":
            return JSON.encode(message)
        kind = type(message)
        schema_id = self._ids.get(kind)
        if schema_id is None:
            schema_id = self._ids[kind] = self._register(_OF_TYPE[kind])
        header = _HEADER.pack(MAGIC, schema_id)
        return header + (self._to_avro(message) if self._written == "avro" else JSON.encode(message))

    def decode(self, kind: type[M], value: bytes | None, unknown: Counter[str] | None = None) -> M:
        """Return the message of a framed or bare value; see `Codec.decode`.

        Raises:
            ContractError: The value has no valid frame, its schema is unknown or belongs to another subject, or the
                message breaks the contract.
            RegistryError: The registry does not answer; decode the same record again later.
        """
        return JSON.decode(kind, self._to_json(_OF_TYPE[kind], value, unknown), unknown)

    def register(self) -> dict[str, int]:
        """Register our schemas of all topics; return their ids by subject.

        Raises:
            SchemaError: The registry does not accept a schema, or messages are written plain, without a schema.
            RegistryError: The registry does not answer.
        """
        return {subject_of(contract.topic): self._register(contract) for contract in CONTRACTS.values()}

    def _to_json(self, contract: Contract, value: bytes | None, unknown: Counter[str] | None) -> bytes | None:
        if not value or value[0] > 0x20 or value[0] in _BLANKS:
            return value  # bare JSON, or a value that the JSON decoder refuses
        schema_id = framed_id(value)
        if schema_id is None:
            rule = f"begins with {value[:5].hex(' ')}: neither JSON nor the magic byte 0 and a schema's id"
            raise ContractError("", rule)
        if len(value) > MAX_MESSAGE_BYTES:
            return value  # the JSON decoder refuses it
        schema = self._schema(schema_id, contract.topic)
        payload = value[_HEADER.size :]
        if schema.type == "JSON":
            return payload
        return self._from_avro(payload, schema_id, schema, contract, unknown)

    def _schema(self, schema_id: int, topic: str) -> RegisteredSchema:
        subject = subject_of(topic)
        schema = self._registry.find(schema_id, subject)
        if schema is None:
            raise ContractError("", f"the schema registry has no schema with the id {schema_id}")
        if subject not in schema.subjects:
            others = ", ".join(sorted(schema.subjects)) or "none"
            rule = f"schema {schema_id} belongs to the subjects {others}; {topic} needs one of {subject}"
            raise ContractError("", rule)
        if schema.type not in ("AVRO", "JSON") or schema.references:
            what = "refers to other schemas" if schema.references else f"is {schema.type}"
            rule = f"schema {schema_id} {what}; only JSON Schema and Avro without references are supported"
            raise ContractError("", rule)
        return schema

    def _register(self, contract: Contract) -> int:
        if self._written == "plain":
            raise SchemaError(
                "messages are written plain, which needs no schema: set SAGELIFT_SCHEMA_REGISTRY__FORMAT to "
                "json_schema or avro to register schemas"
            )
        kind: SchemaType = "AVRO" if self._written == "avro" else "JSON"
        schema = avro_schema(contract.type) if kind == "AVRO" else json_schema(contract.type)
        return self._registry.register(subject_of(contract.topic), kind, schema)

    # ---------------------------------------------------------------------------------------------------------- Avro

    def _to_avro(self, message: Message) -> bytes:
        from fastavro import schemaless_writer

        row = msgspec.to_builtins(message, builtin_types=(datetime,))
        if isinstance(message, ProductVector):
            row["vector"] = base64.b64decode(message.vector)
        if isinstance(message, ProductUpdate):
            row[CLEARED] = [name for name, value in row.items() if value is None]
        out = io.BytesIO()
        schemaless_writer(out, self._own_schema(type(message)), row)
        return out.getvalue()

    def _from_avro(
        self,
        payload: bytes,
        schema_id: int,
        schema: RegisteredSchema,
        contract: Contract,
        unknown: Counter[str] | None,
    ) -> bytes:
        from fastavro import schemaless_reader

        source = io.BytesIO(payload)
        # fastavro raises nearly any exception on hostile bytes, or on a schema that does not resolve to ours. None of
        # them may stop the stream.
        try:
            writer = self._writer_schema(schema_id, schema, contract)
            row: Any = schemaless_reader(source, writer.parsed, self._own_schema(contract.type))
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"[:200]
            raise ContractError("", f"cannot be read with Avro schema {schema_id} and ours ({reason})") from None
        if rest := len(payload) - source.tell():
            raise ContractError("", f"{rest} bytes follow the Avro record of schema {schema_id}")
        if unknown is not None:
            unknown.update(writer.unknown)
        cleared = row.pop(CLEARED, ())
        stated = {name: value for name, value in row.items() if value is not None}
        return _json_encoder.encode(stated | dict.fromkeys(cleared))

    def _writer_schema(self, schema_id: int, schema: RegisteredSchema, contract: Contract) -> _WriterSchema:
        key = schema_id, contract.topic
        if key not in self._writer_schemas:
            from fastavro import parse_schema

            document = msgspec.json.decode(schema.text)
            ours = {field["name"] for field in avro_schema(contract.type)["fields"]}
            unknown = tuple(f["name"][:100] for f in document.get("fields", ()) if f["name"] not in ours)
            self._writer_schemas[key] = _WriterSchema(parse_schema(document), unknown)
        return self._writer_schemas[key]

    def _own_schema(self, kind: type[Message]) -> Any:
        if kind not in self._own_schemas:
            from fastavro import parse_schema

            self._own_schemas[kind] = parse_schema(avro_schema(kind))
        return self._own_schemas[kind]

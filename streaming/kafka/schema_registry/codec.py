"""Messages in Confluent's wire format: a zero byte, the schema's id in four big-endian bytes, then JSON or Avro.

https://docs.confluent.io/platform/current/schema-registry/fundamentals/serdes-develop/index.html#wire-format.
Used where a schema registry is configured; without one messages are bare JSON, and nothing here is called. Reading
tells the two apart by the first byte, which no JSON text has, so a topic may hold both: what was there before the
registry was configured, and what comes after. Whatever the form, the same decoder sees it in the end.
"""

from __future__ import annotations

import base64
import io
import struct
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from typing import Any, Literal, NamedTuple

import msgspec

from streaming.contracts import MAX_MESSAGE_BYTES, ProductUpdate, ProductVector
from streaming.errors import ContractError, SchemaError
from streaming.kafka.schema_registry.client import RegisteredSchema, SchemaRegistry, SchemaType
from streaming.kafka.schema_registry.schemas import CLEARED, CONTRACTS, Contract, avro_schema, json_schema

MAGIC = 0
Format = Literal["plain", "json_schema", "avro"]

_HEADER = struct.Struct(">bI")
_BLANKS = b" \t\r\n"
_OF_TYPE = {contract.type: contract for contract in CONTRACTS.values()}
_OF_TOPIC = {contract.topic: contract for contract in CONTRACTS.values()}

_plain = msgspec.json.Encoder(decimal_format="string")


def subject_of(topic: str) -> str:
    """The subject that a topic's values are registered under (Confluent's TopicNameStrategy)."""
    return f"{topic}-value"


def framed_id(value: bytes | None) -> int | None:
    """The schema id of a message in the wire format; None for any other."""
    return _HEADER.unpack_from(value)[1] if value and value[0] == MAGIC and len(value) > _HEADER.size else None


class _Writer(NamedTuple):
    """An Avro schema that a producer wrote with, and what it names that we do not."""

    parsed: Any
    unknown: tuple[str, ...]


class RegistryWire:
    """Puts messages into the wire format and takes them out again.

    Args:
        registry: of the schemas.
        written: the form of what we write.
    """

    def __init__(self, registry: SchemaRegistry, written: Format = "json_schema") -> None:
        self._registry, self._written = registry, written
        self._ids: dict[type, int] = {}  # of the schemas that we write with
        self._writers: dict[tuple[int, str], _Writer] = {}
        self._readers: dict[type, Any] = {}  # parsed Avro schemas of our own

    def encode(self, message: msgspec.Struct) -> bytes:
        """A message of any contract as it goes on the wire. The first of each contract has its schema registered.

        Raises:
            SchemaError: the registry does not take our schema.
            RegistryError: it does not answer.
        """
        if self._written == "plain":
            return _plain.encode(message)
        kind = type(message)
        schema_id = self._ids.get(kind)
        if schema_id is None:
            schema_id = self._ids[kind] = self._register(_OF_TYPE[kind])
        header = _HEADER.pack(MAGIC, schema_id)
        return header + (self._to_avro(message) if self._written == "avro" else _plain.encode(message))

    def register(self) -> dict[str, int]:
        """Register our schemas of all topics; their ids by subject. Raises as `encode`, and when we write plain."""
        return {subject_of(contract.topic): self._register(contract) for contract in CONTRACTS.values()}

    def plain(self, topic: str, value: bytes | None, unknown: Counter[str] | None = None) -> bytes | None:
        """A record's value as the contracts' decoders take it, which judge the rest.

        Args:
            unknown: counts the fields that the writer's schema has and ours has not.

        Raises:
            ContractError: no such frame, an id that the registry does not know, or that is another subject's.
            RegistryError: it does not answer; the same record must be asked for again.
        """
        if not value or value[0] > 0x20 or value[0] in _BLANKS:
            return value  # bare JSON, or for the decoder to refuse
        schema_id = framed_id(value)
        if schema_id is None:
            rule = f"begins with {value[:5].hex(' ')}: neither JSON nor the magic byte 0 and a schema's id"
            raise ContractError("", rule)
        if len(value) > MAX_MESSAGE_BYTES:
            return value  # the decoder says so
        found = self._find(schema_id, topic)
        payload = value[_HEADER.size :]
        if found.type == "JSON":
            return payload
        return self._from_avro(payload, schema_id, found, _OF_TOPIC[topic], unknown)

    def _find(self, schema_id: int, topic: str) -> RegisteredSchema:
        subject = subject_of(topic)
        found = self._registry.find(schema_id, subject)
        if found is None:
            raise ContractError("", f"the schema registry knows no schema with the id {schema_id}")
        if subject not in found.subjects:
            others = ", ".join(sorted(found.subjects)) or "none"
            raise ContractError("", f"schema {schema_id} is of the subjects {others}; {topic} takes those of {subject}")
        if found.type not in ("AVRO", "JSON") or found.references:
            what = "refers to other schemas" if found.references else f"is {found.type}"
            raise ContractError("", f"schema {schema_id} {what}; JSON Schema and Avro without references are read")
        return found

    def _register(self, contract: Contract) -> int:
        if self._written == "plain":
            raise SchemaError(
                "messages are written plain, which needs no schema: set SAGELIFT_SCHEMA_REGISTRY__FORMAT to "
                "json_schema or avro to register some"
            )
        kind: SchemaType = "AVRO" if self._written == "avro" else "JSON"
        schema = avro_schema(contract.type) if kind == "AVRO" else json_schema(contract.type)
        return self._registry.register(subject_of(contract.topic), kind, schema)

    # ---------------------------------------------------------------------------------------------------------- Avro

    def _to_avro(self, message: msgspec.Struct) -> bytes:
        from fastavro import schemaless_writer

        row = msgspec.to_builtins(message, builtin_types=(datetime,))
        if isinstance(message, ProductVector):
            row["vector"] = base64.b64decode(message.vector)
        if isinstance(message, ProductUpdate):
            row[CLEARED] = [name for name, value in row.items() if value is None]
        out = io.BytesIO()
        schemaless_writer(out, self._reader(type(message)), row)
        return out.getvalue()

    def _from_avro(
        self, payload: bytes, schema_id: int, found: RegisteredSchema, contract: Contract, unknown: Counter[str] | None
    ) -> bytes:
        from fastavro import schemaless_reader

        source = io.BytesIO(payload)
        # fastavro raises nearly anything on hostile bytes, or a schema that does not resolve to ours; none of it may
        # stop the stream.
        try:
            writer = self._writer(schema_id, found, contract)
            row: Any = schemaless_reader(source, writer.parsed, self._reader(contract.type))
        except Exception as error:
            said = f"{type(error).__name__}: {error}"[:200]
            raise ContractError("", f"not Avro by schema {schema_id} that ours can read ({said})") from None
        if rest := len(payload) - source.tell():
            raise ContractError("", f"{rest} bytes follow the Avro record of schema {schema_id}")
        if unknown is not None:
            unknown.update(writer.unknown)
        cleared = row.pop(CLEARED, ())
        stated = {name: value for name, value in row.items() if value is not None}
        return _plain.encode(stated | dict.fromkeys(cleared))

    def _writer(self, schema_id: int, found: RegisteredSchema, contract: Contract) -> _Writer:
        key = schema_id, contract.topic
        if key not in self._writers:
            from fastavro import parse_schema

            schema = msgspec.json.decode(found.text)
            ours = {field["name"] for field in avro_schema(contract.type)["fields"]}
            unknown = tuple(f["name"][:100] for f in schema.get("fields", ()) if f["name"] not in ours)
            self._writers[key] = _Writer(parse_schema(schema), unknown)
        return self._writers[key]

    def _reader(self, kind: type[msgspec.Struct]) -> Any:
        if kind not in self._readers:
            from fastavro import parse_schema

            self._readers[kind] = parse_schema(avro_schema(kind))
        return self._readers[kind]


Plain = Callable[[str, bytes | None, Counter[str] | None], bytes | None]
"""`RegistryWire.plain`."""

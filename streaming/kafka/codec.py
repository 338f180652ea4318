"""Conversion between messages and the bytes of a record's value.

`Connection.codec` is the only way from a message to bytes and back: `JSON` by default, a codec of the schema registry
(`streaming.kafka.schema_registry.codec`) when one is configured.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Final, Protocol, TypeVar

import msgspec

from streaming.contracts import MAX_MESSAGE_BYTES, MESSAGES, Message
from streaming.errors import ContractError

M = TypeVar("M", bound=Message)

_encoder = msgspec.json.Encoder(decimal_format="string")
_decoders: dict[type[msgspec.Struct], msgspec.json.Decoder[Any]] = {
    kind: msgspec.json.Decoder(kind) for kind in MESSAGES
}


class Codec(Protocol):
    """Converts the messages of all topics to bytes and back."""

    def encode(self, message: Message) -> bytes:
        """Return the value of a record that holds the message.

        Raises:
            SchemaError: The schema registry does not accept our schema.
            RegistryError: The schema registry does not answer.
        """

    def decode(self, kind: type[M], value: bytes | None, unknown: Counter[str] | None = None) -> M:
        """Return the message of a record, with every field valid for its type.

        Rules that the types cannot express are checked by `contracts.check_update` and `contracts.check_event`.

        Args:
            kind: The type of the topic's messages.
            value: The value of the record.
            unknown: Counts the names of dropped fields, which the contract does not have.

        Raises:
            ContractError: The value does not hold such a message; the error names the field and the rule.
            RegistryError: The schema registry does not answer; decode the same record again later.
        """


class JsonCodec:
    """Messages as JSON, without any registry."""

    def encode(self, message: Message) -> bytes:
        """Return the message as JSON; amounts are decimal strings."""
        return _encoder.encode(message)

    def decode(self, kind: type[M], value: bytes | None, unknown: Counter[str] | None = None) -> M:
        """Return the message that the JSON holds; see `Codec.decode`."""
        if value is None:
            raise ContractError("", "the record has no value")
        if len(value) > MAX_MESSAGE_BYTES:
            raise ContractError("", f"the record has {len(value)} bytes, at most {MAX_MESSAGE_BYTES} are allowed")
        message: M
        try:
            try:
                message = _decoders[kind].decode(value)
            except msgspec.ValidationError as error:
                if not str(error).startswith("Object contains unknown field"):
                    raise
                message = _decoders[kind].decode(_without_unknown_fields(kind, value, unknown))
        except msgspec.ValidationError as error:
            rule, _, path = str(error).partition(" - at `$")
            raise ContractError(path.strip("`.") if path else "", rule) from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            if value[:1] == b"\x00" and len(value) > 5:
                raise ContractError(
                    "",
                    "it is in the wire format of a schema registry (magic byte 0), and none is configured: set "
                    "SAGELIFT_SCHEMA_REGISTRY__URL",
                ) from None
            raise ContractError("", f"not JSON: {error}") from None
        except RecursionError:
            raise ContractError("", "nested too deeply") from None
        return message


JSON: Final[Codec] = JsonCodec()
"""The codec of an installation without a schema registry."""


def _without_unknown_fields(kind: type[msgspec.Struct], value: bytes, unknown: Counter[str] | None) -> bytes:
    """Drop the fields that the contract does not name. This is slow: call it only if a message has such fields."""
    fields = msgspec.json.decode(value, type=dict[str, msgspec.Raw])
    kept = {name: raw for name, raw in fields.items() if name in kind.__struct_fields__}
    if unknown is not None:
        unknown.update(name[:100] for name in fields.keys() - kept.keys())
    return msgspec.json.encode(kept)

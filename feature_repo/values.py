"""The codec of Feast's online values: the bytes of `Value.SerializeToString()`, without building messages.

Feast stores every feature as a serialized protobuf `Value`. Its Python converters take one float at a time. A vector is
only a fixed head and the little-endian float32 bytes, so this module converts it at once, and texts likewise: a product
has a dozen. The heads are cut from what Feast's own message class serializes, not copied from a specification.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache

import numpy as np
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import FloatList, Int64List, RepeatedValue, StringList, Value
from numpy.typing import NDArray

from feature_repo.definitions import JOIN_KEY
from feature_repo.rows import EMBEDDING_DIM

NULL: bytes = Value().SerializeToString()

_FLOAT_BYTES = 4
_CACHED_KEYS = 16_384  # each read and write of a product needs its key, often several in a row
_EMPTY: bytes = Value(string_val="").SerializeToString()  # most texts of a product are empty
_TEXT = _EMPTY[:1]  # the size of the text and its UTF-8 follow
_INT: bytes = Value(int64_val=0).SerializeToString()[:1]  # the number follows, encoded like a size
_ONE_BYTE, _TWO_BYTES, _THREE_BYTES = 1 << 7, 1 << 14, 1 << 21  # a size or number from here on takes one more byte
_SIZES = [bytes((size,)) for size in range(_ONE_BYTE)]


def encode_string(text: str) -> bytes:
    """Encode a text."""
    if not text:
        return _EMPTY
    raw = text.encode()
    size = len(raw)
    if size < _ONE_BYTE:
        return _TEXT + _SIZES[size] + raw
    if size < _TWO_BYTES:
        return _TEXT + bytes((size & 0x7F | 0x80, size >> 7)) + raw
    return bytes(Value(string_val=text).SerializeToString())


def encode_strings(texts: Sequence[str]) -> bytes:
    """Encode a list of texts."""
    return bytes(Value(string_list_val=StringList(val=texts)).SerializeToString())


def encode_ints(numbers: Sequence[int]) -> bytes:
    """Encode a list of 64-bit numbers."""
    return bytes(Value(int64_list_val=Int64List(val=numbers)).SerializeToString())


def encode_optional_string(text: str | None) -> bytes:
    """Encode a text or null."""
    return NULL if text is None else encode_string(text)


def encode_optional_int(number: int | None) -> bytes:
    """Encode a 64-bit number or null."""
    if number is None:
        return NULL
    if 0 <= number < _ONE_BYTE:
        return _INT + _SIZES[number]
    if 0 <= number < _TWO_BYTES:
        return _INT + bytes((number & 0x7F | 0x80, number >> 7))
    if 0 <= number < _THREE_BYTES:
        return _INT + bytes((number & 0x7F | 0x80, number >> 7 & 0x7F | 0x80, number >> 14))
    return bytes(Value(int64_val=number).SerializeToString())


def decode_string(blob: bytes | None) -> str:
    """Decode a text; '' for null."""
    if not blob or blob == _EMPTY:
        return ""
    size = len(blob)
    if blob[0] == _TEXT[0]:
        if size < _ONE_BYTE + 2 and blob[1] == size - 2:
            return str(blob[2:], "utf-8")
        if size < _TWO_BYTES + 3 and blob[1] & 0x80 and blob[1] & 0x7F | blob[2] << 7 == size - 3:
            return str(blob[3:], "utf-8")
    return str(Value.FromString(blob).string_val)


def decode_optional_string(blob: bytes | None) -> str | None:
    """Decode a text or null."""
    if blob and blob[0] == _TEXT[0]:
        return decode_string(blob)
    value = Value.FromString(blob or NULL)
    return value.string_val if value.HasField("string_val") else None


def decode_optional_int(blob: bytes | None) -> int | None:
    """Decode a 64-bit number or null."""
    if blob and blob[0] == _INT[0]:
        if len(blob) == 3 and blob[1] & 0x80 and not blob[2] & 0x80:
            return blob[1] & 0x7F | blob[2] << 7
        if len(blob) == 4 and blob[1] & 0x80 and blob[2] & 0x80 and not blob[3] & 0x80:
            return blob[1] & 0x7F | (blob[2] & 0x7F) << 7 | blob[3] << 14
    value = Value.FromString(blob or NULL)
    return value.int64_val if value.HasField("int64_val") else None


def decode_strings(blob: bytes | None) -> list[str]:
    """Decode a list of texts; [] for null."""
    return list(Value.FromString(blob or NULL).string_list_val.val)


def decode_ints(blob: bytes | None) -> list[int]:
    """Decode a list of 64-bit numbers; [] for null."""
    return list(Value.FromString(blob or NULL).int64_list_val.val)


def encode_vector(vector: NDArray[np.float32]) -> bytes:
    """Encode one vector [d] as a float list."""
    return _vector_head(len(vector)) + vector.astype("<f4", copy=False).tobytes()


def decode_vector(blob: bytes | None, dim: int = EMBEDDING_DIM) -> NDArray[np.float32]:
    """Decode a read-only vector [dim]; [0] for null."""
    head = _vector_head(dim)
    if blob and blob.startswith(head) and len(blob) == len(head) + _FLOAT_BYTES * dim:
        return np.frombuffer(blob[len(head) :], dtype="<f4")  # a slice, because a view would not be aligned
    return _numbers(Value.FromString(blob or NULL))


def encode_vectors(vectors: NDArray[np.float32]) -> bytes:
    """Encode vectors [n, d] as a list of n float lists."""
    n, dim = vectors.shape
    head, record_head = _matrix_heads(n, dim)
    records = np.empty((n, len(record_head) + _FLOAT_BYTES * dim), dtype=np.uint8)
    records[:, : len(record_head)] = np.frombuffer(record_head, dtype=np.uint8)
    records[:, len(record_head) :] = np.ascontiguousarray(vectors, dtype="<f4").view(np.uint8)
    return head + records.tobytes()


def decode_vectors(blob: bytes | None, dim: int = EMBEDDING_DIM) -> NDArray[np.float32]:
    """Decode read-only vectors [n, dim]; [0, dim] for null."""
    record = len(_matrix_heads(1, dim)[1]) + _FLOAT_BYTES * dim
    n = len(blob or b"") // record
    if blob and n:
        head, record_head = _matrix_heads(n, dim)
        if len(blob) == len(head) + n * record and blob.startswith(head):
            starts = range(len(head), len(blob), record)
            bodies = [blob[at + len(record_head) : at + record] for at in starts if blob.startswith(record_head, at)]
            if len(bodies) == n:
                return np.frombuffer(b"".join(bodies), dtype="<f4").reshape(n, dim)
    # Feast's own engine materializes nested lists as doubles.
    rows = [_numbers(value) for value in Value.FromString(blob or NULL).list_val.val]
    return np.array(rows, dtype=np.float32).reshape(len(rows), dim)


@lru_cache(_CACHED_KEYS)
def encode_key(id: str, join_key: str = JOIN_KEY) -> bytes:
    """Encode the id of a product, or of another entity with a text key, as Feast's entity key."""
    raw = id.encode()
    return _key_head(join_key) + len(raw).to_bytes(4, "little") + raw


def decode_key(key: bytes, join_key: str = JOIN_KEY) -> str:
    """Decode the id of an entity key."""
    return key[len(_key_head(join_key)) + 4 :].decode()


@cache
def _key_head(join_key: str) -> bytes:
    empty = EntityKey(join_keys=[join_key], entity_values=[Value(string_val="")])
    serialised: bytes = serialize_entity_key(empty, entity_key_serialization_version=3)
    return serialised[:-4]  # without the length of the id


@cache
def _vector_head(dim: int) -> bytes:
    serialised: bytes = _zeros(dim).SerializeToString()
    return serialised[: len(serialised) - _FLOAT_BYTES * dim]


@cache
def _matrix_heads(n: int, dim: int) -> tuple[bytes, bytes]:
    """Return the bytes before all n records, and the bytes before each record's floats."""
    one: bytes = RepeatedValue(val=[_zeros(dim)]).SerializeToString()
    record_head = one[: len(one) - _FLOAT_BYTES * dim]
    serialised: bytes = Value(list_val=RepeatedValue(val=[_zeros(dim)] * n)).SerializeToString()
    return serialised[: len(serialised) - n * len(one)], record_head


def _zeros(dim: int) -> Value:
    return Value(float_list_val=FloatList(val=[0.0] * dim))


def _numbers(value: Value) -> NDArray[np.float32]:
    kind = value.WhichOneof("val")
    return np.array(getattr(value, kind).val if kind else [], dtype=np.float32)

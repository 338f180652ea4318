"""From a salt and a unit id to two buckets in 0..9,999. The rules (K1, U1, ...) are those of
docs/assignment-spec.md.

    digest = SHA-256(UTF-8(salt) 0x1F UTF-8(unit))
    gate   = hex digits  1-15 of the digest, as an integer, modulo 10,000
    split  = hex digits 16-30 of the digest, as an integer, modulo 10,000

One digest gives both draws, since two digests would double the cost of the hot path. 60 bits fit a signed
BIGINT, so that an analyst recomputes either draw in one SQL expression (`bucket_sql`).
"""

import hashlib
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from experiments.decision import Reason

BUCKETS: Final = 10_000
DELIMITER: Final = "\x1f"
MAX_UNIT_BYTES: Final = 1024  # U5: below the longest key that a PostgreSQL index takes (2,704 bytes)
_LOW_60_BITS: Final = (1 << 60) - 1
_CHUNK: Final = 65_536  # ids hashed at a time by `bucket_column`; bounds its memory to a few MB beside the result


class Hash(Protocol):
    def digest(self) -> bytes: ...


HashFunction = Callable[[bytes], Hash]
"""What makes a digest of at least 16 bytes. `hashlib.sha256` is the kernel; tests pass others to state the
bucket.
"""

Draw = Literal["gate", "split"]


class Buckets(NamedTuple):
    gate: int
    split: int


class BucketColumns(NamedTuple):
    """Both draws of a column of ids; -1 where the id cannot be enrolled (U1-U5)."""

    gate: NDArray[np.int16]
    split: NDArray[np.int16]


def prefix(salt: str) -> bytes:
    """What precedes the unit's bytes in the digest (K1, K2): prepared once per experiment."""
    return (salt + DELIMITER).encode("utf-8")


def gate_bucket(digest: bytes) -> int:
    """K4: hex digits 1-15."""
    return (int.from_bytes(digest[:8], "big") >> 4) % BUCKETS


def split_bucket(digest: bytes) -> int:
    """K5: hex digits 16-30."""
    return (int.from_bytes(digest[7:15], "big") & _LOW_60_BITS) % BUCKETS


def buckets(salt: str, unit: str) -> Buckets:
    """Both draws of one id. Raises UnicodeEncodeError for a lone surrogate, which has no UTF-8 bytes."""
    digest = hashlib.sha256(prefix(salt) + unit.encode("utf-8")).digest()
    return Buckets(gate_bucket(digest), split_bucket(digest))


def unit_bytes(unit: object) -> bytes | Reason:
    """The UTF-8 bytes of a unit id, or the reason why it cannot be enrolled (U1-U5). Never raises."""
    if unit is None:
        return Reason.UNIT_MISSING
    if not isinstance(unit, str):
        return Reason.UNIT_NOT_TEXT
    if not unit:
        return Reason.UNIT_MISSING
    try:
        encoded = unit.encode("utf-8")
    except UnicodeEncodeError:
        return Reason.UNIT_NOT_UNICODE
    if b"\0" in encoded:
        return Reason.UNIT_HAS_NUL
    if len(encoded) > MAX_UNIT_BYTES:
        return Reason.UNIT_TOO_LONG
    return encoded


def bucket_column(
    salt: str, units: Sequence[object] | NDArray[Any], hash_function: HashFunction = hashlib.sha256
) -> BucketColumns:
    """Both draws of a column of ids: a sequence, a NumPy array, a pyarrow array or a pandas series.

    Memory beside the result is bounded by a chunk of 65,536 ids, whatever the length of the column.
    """
    start = prefix(salt)
    gate = np.empty(len(units), dtype=np.int16)
    split = np.empty(len(units), dtype=np.int16)
    for begin in range(0, len(units), _CHUNK):
        part = units[begin : begin + _CHUNK]
        encoded, invalid = _encode_chunk(part.tolist() if hasattr(part, "tolist") else list(part))
        digests = b"".join([hash_function(start + unit).digest()[:16] for unit in encoded])
        high, low = np.frombuffer(digests, dtype=">u8").reshape(-1, 2).T.astype(np.uint64)
        end = begin + len(encoded)
        gate[begin:end] = (high >> np.uint64(4)) % np.uint64(BUCKETS)
        # Digit 16 is the low half of byte 7, digits 17-30 are bytes 8 to 14.
        bits = ((high & np.uint64(0xF)) << np.uint64(56)) | (low >> np.uint64(8))
        split[begin:end] = bits % np.uint64(BUCKETS)
        gate[begin:end][invalid] = -1
        split[begin:end][invalid] = -1
    return BucketColumns(gate, split)


def _encode_chunk(chunk: list[object]) -> tuple[list[bytes], list[int]]:
    """The ids' bytes, and the positions of those that cannot be enrolled (their bytes are then empty)."""
    if set(map(type, chunk)) == {str}:
        # A chunk of sound ids, the usual case, is judged as a whole: four passes in C instead of a call per
        # id.
        try:
            encoded = [unit.encode("utf-8") for unit in chunk]  # type: ignore[attr-defined]
        except UnicodeEncodeError:
            pass
        else:
            if all(encoded) and max(map(len, encoded)) <= MAX_UNIT_BYTES and b"\0" not in b"".join(encoded):
                return encoded, []
    judged = [unit_bytes(unit) for unit in chunk]
    invalid = [i for i, unit in enumerate(judged) if isinstance(unit, Reason)]
    return [b"" if isinstance(unit, Reason) else unit for unit in judged], invalid


# S1. `{digits}` is where the draw's 15 hex digits begin: 1 for the gate, 16 for the split. A NULL unit gives
# NULL.
_SQL: Final = {
    "duckdb": "('0x' || substr(sha256({salt} || chr(31) || {unit}), {digits}, 15))::bigint % 10000",
    "postgresql": (
        "('x0' || substr(encode(sha256(convert_to({salt} || chr(31) || {unit}, 'UTF8')), 'hex'), {digits}, 15))"
        "::bit(64)::bigint % 10000"
    ),
}


def bucket_sql(dialect: Literal["duckdb", "postgresql"], draw: Draw, *, salt: str, unit: str) -> str:
    """The SQL expression of a draw: `salt` becomes a literal, `unit` is a column or another text expression.

    `bucket_sql("duckdb", "gate", salt="s1", unit="unit_id")` is
    `('0x' || substr(sha256('s1' || chr(31) || unit_id), 1, 15))::bigint % 10000`.
    """
    literal = "'" + salt.replace("'", "''") + "'"
    return _SQL[dialect].format(salt=literal, unit=unit, digits={"gate": 1, "split": 16}[draw])


def register_sqlite(connection: sqlite3.Connection) -> None:
    """Gives a SQLite connection `gate_bucket(salt, unit)` and `split_bucket(salt, unit)`: SQLite has no
    SHA-256 of its own.
    """

    def function(index: int) -> Callable[[str | None, str | None], int | None]:
        def bucket(salt: str | None, unit: str | None) -> int | None:
            return None if salt is None or unit is None else buckets(salt, unit)[index]

        return bucket

    for index, name in enumerate(("gate_bucket", "split_bucket")):
        connection.create_function(name, 2, function(index), deterministic=True)

"""From a salt and a unit id to two buckets in 0..9,999: rules K1-K8 and U1-U5 of docs/reference/assignment-spec.md.

`sha256`, the kernel of new experiments:

    digest = SHA-256(UTF-8(salt) 0x1F UTF-8(unit))
    gate   = hex digits  1-15 of the digest, as an integer, modulo 10,000
    split  = hex digits 16-30 of the digest, as an integer, modulo 10,000

One digest gives both draws: two digests would double the cost of the hot path. 60 bits fit a signed BIGINT, so that an
analyst can recompute either draw in one SQL expression (`warehouse_sql.bucket_sql`).

`gb2`, GrowthBook's hash version 2, for a team that migrates from GrowthBook without reshuffling its units (K6 to K8):

    number = FNV-1a-32(decimal(FNV-1a-32(salt unit))) over UTF-16 code units
    gate   = split = number modulo 10,000
"""

import hashlib
import struct
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from experiments.assignment import Reason

BUCKETS: Final = 10_000
"""Number of buckets of every draw."""

DELIMITER: Final = "\x1f"
"""Separates the salt from the unit id."""

MAX_UNIT_BYTES: Final = 1024
"""U5: the longest unit id. A key of a PostgreSQL index may have 2,704 bytes."""

_LOW_60_BITS: Final = (1 << 60) - 1
SHA256: Final = hashlib.sha256
"""The hash of the kernel `sha256`."""

_CHUNK: Final = 65_536  # ids that `bucket_column` hashes at a time; bounds its memory to a few MB beside the result
TWO_INTEGERS: Final = struct.Struct(">QQ").unpack_from
"""Reads the first 16 bytes of a digest as two big-endian integers."""

_FNV_OFFSET: Final = 2_166_136_261
_FNV_PRIME: Final = 16_777_619
_LOW_32_BITS: Final = (1 << 32) - 1

HashVersion = Literal["sha256", "gb2"]
"""The kernels."""


class Hash(Protocol):
    """A hash object with the interface of hashlib."""

    def copy(self) -> "Hash":
        """Return a copy that can be updated separately."""
        ...

    def update(self, data: bytes, /) -> None:
        """Add bytes."""
        ...

    def digest(self) -> bytes:
        """Return the digest of all bytes."""
        ...


HashFunction = Callable[[bytes], Hash]
"""Makes a hash with a digest of at least 16 bytes: `hashlib.sha256`, or a test's own function to state the bucket."""


class Buckets(NamedTuple):
    """Both draws of one id, each 0 to 9,999."""

    gate: int
    split: int


class BucketColumns(NamedTuple):
    """Both draws of a column of ids: [n] each; -1 where the id cannot be enrolled (U1-U5)."""

    gate: NDArray[np.int16]
    split: NDArray[np.int16]


def digest_after(start: Hash, data: bytes) -> bytes:
    """Return the digest of the bytes of `start` followed by `data`. `start` does not change.

    Hashing a prefix once and copying it for each unit costs less than hashing it for each unit.
    """
    hashed = start.copy()
    hashed.update(data)
    return hashed.digest()


DrawFunction = Callable[[bytes], tuple[int, int]]
"""From the bytes of prefix and unit to the gate and split buckets."""


def prefix(salt: str, hash_version: HashVersion = "sha256") -> bytes:
    """Return the bytes that precede the unit's bytes (K1, K2, K6)."""
    return (salt + DELIMITER if hash_version == "sha256" else salt).encode("utf-8")


def gate_bucket(digest: bytes) -> int:
    """Return the gate bucket of a digest (K4): hex digits 1-15."""
    return (int.from_bytes(digest[:8], "big") >> 4) % BUCKETS


def split_bucket(digest: bytes) -> int:
    """Return the split bucket of a digest (K5): hex digits 16-30."""
    return (int.from_bytes(digest[7:15], "big") & _LOW_60_BITS) % BUCKETS


def sha256_draw(hash_function: HashFunction = hashlib.sha256) -> DrawFunction:
    """Return K3 to K5 as one function for the hot path: `gate_bucket` and `split_bucket` from two integers."""

    def draw(data: bytes) -> tuple[int, int]:
        high, low = TWO_INTEGERS(hash_function(data).digest())
        # Digit 16 is the low half of byte 7, digits 17-30 are bytes 8 to 14.
        return (high >> 4) % BUCKETS, ((high & 15) << 56 | low >> 8) % BUCKETS

    return draw


def gb2_draw(data: bytes) -> tuple[int, int]:
    """Return the draws of `gb2` (K6 to K8): the same number twice."""
    bucket = _fnv1a32(str(_fnv1a32(data)).encode("ascii")) % BUCKETS
    return bucket, bucket


def _fnv1a32(data: bytes) -> int:
    """Return FNV-1a-32 over the UTF-16 code units of UTF-8 bytes."""
    units: Sequence[int] = data
    if not data.isascii():
        units = np.frombuffer(data.decode("utf-8").encode("utf-16-le"), dtype="<u2").tolist()
    number = _FNV_OFFSET
    for unit in units:
        number = ((number ^ unit) * _FNV_PRIME) & _LOW_32_BITS
    return number


def draw_function(hash_version: HashVersion) -> DrawFunction:
    """Return the kernel of a hash version."""
    return gb2_draw if hash_version == "gb2" else sha256_draw()


def buckets(salt: str, unit: str, hash_version: HashVersion = "sha256") -> Buckets:
    """Return both draws of one id.

    Raises:
        UnicodeEncodeError: The id has a lone surrogate, which has no UTF-8 bytes.
    """
    return Buckets(*draw_function(hash_version)(prefix(salt, hash_version) + unit.encode("utf-8")))


def unit_bytes(unit: object) -> bytes | Reason:
    """Return the UTF-8 bytes of a unit id, or the reason why it cannot be enrolled (U1-U5). Never raises."""
    if type(unit) is not str:
        if not isinstance(unit, str):
            return Reason.UNIT_MISSING if unit is None else Reason.UNIT_NOT_TEXT
        unit = str.__getitem__(unit, slice(None))  # a subclass may override `encode`
    try:
        encoded = unit.encode()
    except UnicodeEncodeError:
        return Reason.UNIT_NOT_UNICODE
    if not encoded:
        return Reason.UNIT_MISSING
    if "\0" in unit:
        return Reason.UNIT_HAS_NUL
    if len(encoded) > MAX_UNIT_BYTES:
        return Reason.UNIT_TOO_LONG
    return encoded


def bucket_column(
    salt: str,
    units: Sequence[object] | NDArray[Any],
    hash_version: HashVersion = "sha256",
    hash_function: HashFunction = hashlib.sha256,
) -> BucketColumns:
    """Draw the buckets of a column of ids on one core; `bulk_assignment` uses all cores.

    The memory beside the result is that of a chunk of 65,536 ids.

    Args:
        salt: Salt of the draws.
        units: Sequence, NumPy array, pyarrow array or pandas series of ids: [n].
        hash_version: The kernel.
        hash_function: The hash of the kernel `sha256`.
    """
    start = prefix(salt, hash_version)
    gate = np.empty(len(units), dtype=np.int16)
    split = np.empty(len(units), dtype=np.int16)
    # FNV pads the texts of a chunk to the longest, which may have 1,024 bytes.
    chunk = _CHUNK // 8 if hash_version == "gb2" else _CHUNK
    for begin in range(0, len(units), chunk):
        part = units[begin : begin + chunk]
        encoded, invalid = _encode_chunk(part.tolist() if hasattr(part, "tolist") else list(part))
        end = begin + len(encoded)
        if hash_version == "gb2":
            gate[begin:end] = split[begin:end] = _gb2_chunk(start, encoded)
        else:
            digests = b"".join([hash_function(start + unit).digest()[:16] for unit in encoded])
            gate[begin:end], split[begin:end] = columns_of_digests(np.frombuffer(digests, np.uint8).reshape(-1, 16))
        gate[begin:end][invalid] = -1
        split[begin:end][invalid] = -1
    return BucketColumns(gate, split)


def columns_of_digests(digests: NDArray[np.uint8]) -> BucketColumns:
    """Return both draws of digests.

    Args:
        digests: [n, 16 or more] bytes.
    """
    high, low = np.ascontiguousarray(digests[:, :16]).view(">u8").T.astype(np.uint64)
    gate = (high >> np.uint64(4)) % np.uint64(BUCKETS)
    # Digit 16 is the low half of byte 7, digits 17-30 are bytes 8 to 14.
    bits = ((high & np.uint64(0xF)) << np.uint64(56)) | (low >> np.uint64(8))
    return BucketColumns(gate.astype(np.int16), (bits % np.uint64(BUCKETS)).astype(np.int16))


def _gb2_chunk(start: bytes, encoded: list[bytes]) -> NDArray[np.int64]:
    """Return K6 to K8 of many ids: hash the first code units of all texts, then all second ones, and so on."""
    texts = [(start + unit).decode("utf-8").encode("utf-16-le") for unit in encoded]
    numbers = _fnv1a32_columns(texts, np.dtype("<u2"))
    return _fnv1a32_columns([str(number).encode("ascii") for number in numbers.tolist()], np.dtype("u1")) % BUCKETS


def _fnv1a32_columns(texts: list[bytes], unit: np.dtype[Any]) -> NDArray[np.int64]:
    lengths = np.array([len(text) // unit.itemsize for text in texts])
    order = np.argsort(lengths, kind="stable")  # the texts that continue are then always the last ones
    width = int(lengths.max(initial=0))
    padded = np.frombuffer(b"".join([texts[i].ljust(width * unit.itemsize, b"\0") for i in order]), dtype=unit)
    columns = padded.reshape(len(texts), width).T
    first = np.searchsorted(lengths[order], np.arange(width), side="right")
    numbers = np.full(len(texts), _FNV_OFFSET, dtype=np.uint64)
    for i in range(width):
        rest = numbers[first[i] :]
        rest ^= columns[i, first[i] :].astype(np.uint64)
        rest *= np.uint64(_FNV_PRIME)
        rest &= np.uint64(_LOW_32_BITS)
    result = np.empty(len(texts), dtype=np.int64)
    result[order] = numbers
    return result


def _encode_chunk(chunk: list[object]) -> tuple[list[bytes], list[int]]:
    """Return the ids' bytes, and the positions of the ids that cannot be enrolled; these have empty bytes."""
    if set(map(type, chunk)) == {str}:
        # Check a chunk of valid ids, the usual case, as a whole: four passes in C in place of a call for each id.
        try:
            encoded = [unit.encode("utf-8") for unit in chunk]  # type: ignore[attr-defined]
        except UnicodeEncodeError:
            pass
        else:
            if all(encoded) and max(map(len, encoded)) <= MAX_UNIT_BYTES and b"\0" not in b"".join(encoded):
                return encoded, []
    checked = [unit_bytes(unit) for unit in chunk]
    invalid = [i for i, unit in enumerate(checked) if isinstance(unit, Reason)]
    return [b"" if isinstance(unit, Reason) else unit for unit in checked], invalid

"""Encode Arrow columns of the history as rows of the online store, a batch at a time.

The bytes are those that `feature_repo.store` writes online for the same product. Each column is encoded at once by its
Arrow type, without a product object in between.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final
from zlib import crc32

import numpy as np
import pyarrow as pa
from feast import FeatureView, Field

from feature_repo import values
from feature_repo.definitions import DELETED, EVENT_TIME, VERSION, join_key_of
from feature_repo.errors import HistoryError
from feature_repo.online_row import OnlineRow


def online_rows(table: pa.Table, view: FeatureView) -> list[OnlineRow]:
    """Encode rows of one view's history, in their order; tombstones have no features.

    Raises:
        HistoryError: The vector of a live row does not have the view's length.
    """
    table = table.combine_chunks()
    key = join_key_of(view.name)
    ids = table[key].to_pylist()
    deleted = table[DELETED].to_pylist()
    features = [feature for feature in view.features if feature.name not in (VERSION, DELETED)]
    columns = []
    for feature in features:
        column = _one_chunk(table[feature.name])
        if feature.vector_index:
            _check_length(ids, deleted, column, feature)
        columns.append(_encoder(column.type)(column))
    empty = (None,) * len(features)
    payload = [empty if gone else row for gone, row in zip(deleted, zip(*columns, strict=True), strict=True)]
    versions = table[VERSION].to_pylist()
    event_us = table[EVENT_TIME].cast(pa.int64()).to_pylist()
    keys = (values.encode_key(id, key) for id in ids)
    return list(map(OnlineRow, keys, versions, deleted, event_us, payload))


def content_checksum(row: OnlineRow) -> int:
    """Return the CRC-32 of a row's key and features, without its version."""
    return crc32(b"\0".join([row.key, *(blob or b"" for blob in row.values)]))


def _one_chunk(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _check_length(ids: Sequence[str], deleted: Sequence[bool], column: pa.Array, feature: Field) -> None:
    lengths = np.diff(column.offsets.to_numpy())
    wrong = np.flatnonzero((lengths != feature.vector_length) & ~np.array(deleted, dtype=bool))
    if len(wrong):
        raise HistoryError(
            f"Product {ids[wrong[0]]!r} has a {feature.name} of {lengths[wrong[0]]} numbers in the history, not "
            f"{feature.vector_length} ({len(wrong)} such rows in this shard): move away the part that holds them."
        )


def _encoder(kind: pa.DataType) -> Callable[[pa.Array], list[bytes]]:
    for matches, encode in _ENCODERS:
        if matches(kind):
            return encode
    raise HistoryError(f"The history has a column of type {kind}, which the online store does not know.")


def _strings(column: pa.Array) -> list[bytes]:
    return [values.encode_optional_string(text) for text in column.to_pylist()]


def _ints(column: pa.Array) -> list[bytes]:
    return [values.encode_optional_int(number) for number in column.to_pylist()]


def _string_lists(column: pa.Array) -> list[bytes]:
    return [values.NULL if texts is None else values.encode_strings(texts) for texts in column.to_pylist()]


def _int_lists(column: pa.Array) -> list[bytes]:
    return [values.NULL if numbers is None else values.encode_ints(numbers) for numbers in column.to_pylist()]


def _vectors(column: pa.Array) -> list[bytes]:
    """Encode List<float32> [n]; vectors of one length share their protobuf head."""
    offsets = column.offsets.to_numpy()
    numbers = column.values.to_numpy(zero_copy_only=False)
    lengths = np.diff(offsets)
    live = np.flatnonzero(lengths)
    blobs = [values.NULL] * len(column)
    if not len(live):
        return blobs
    dim = int(lengths[live[0]])
    if (lengths[live] == dim).all():
        flat = np.ascontiguousarray(numbers[offsets[0] : offsets[-1]], dtype="<f4").tobytes()
        head = values.encode_vector(np.zeros(dim, np.float32))[: -4 * dim]
        for at, i in enumerate(live.tolist()):
            blobs[i] = head + flat[4 * dim * at : 4 * dim * (at + 1)]
        return blobs
    for i in live.tolist():
        blobs[i] = values.encode_vector(numbers[offsets[i] : offsets[i + 1]])
    return blobs


def _matrices(column: pa.Array) -> list[bytes]:
    """Encode List<list<float32>> [n]; the inner lists of one row have one length."""
    outer, inner = column.offsets.to_numpy(), column.values.offsets.to_numpy()
    numbers = column.values.values.to_numpy(zero_copy_only=False)
    blobs = []
    for start, end, valid in zip(outer[:-1], outer[1:], column.is_valid().to_pylist(), strict=True):
        if not valid:
            blobs.append(values.NULL)
            continue
        rows = int(end - start)
        flat = numbers[inner[start] : inner[end]] if rows else numbers[:0]
        blobs.append(values.encode_vectors(flat.reshape(rows, -1 if rows else 0).astype(np.float32, copy=False)))
    return blobs


def _is_list_of(kind: pa.DataType, inner: Callable[[pa.DataType], bool]) -> bool:
    return bool(pa.types.is_list(kind) and inner(kind.value_type))


_ENCODERS: Final[list[tuple[Callable[[pa.DataType], bool], Callable[[pa.Array], list[bytes]]]]] = [
    (pa.types.is_string, _strings),
    (pa.types.is_int64, _ints),
    (lambda kind: _is_list_of(kind, pa.types.is_string), _string_lists),
    (lambda kind: _is_list_of(kind, pa.types.is_int64), _int_lists),
    (lambda kind: _is_list_of(kind, pa.types.is_float32), _vectors),
    (lambda kind: _is_list_of(kind, lambda item: _is_list_of(item, pa.types.is_float32)), _matrices),
]

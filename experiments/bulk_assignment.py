"""Assignment of a whole column of unit ids, with the same results as `PreparedExperiment.assign` for each id.

DuckDB computes the digests, a chunk on each core, so that the memory does not grow with the column. A chunk that
DuckDB cannot take (an id that is not text, or not Unicode) and the kernel `gb2` use `kernel.bucket_column`, which gives
the same result on one core.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from experiments import kernel
from experiments.kernel import MAX_UNIT_BYTES, BucketColumns, HashVersion

if TYPE_CHECKING:
    import duckdb

    from experiments.evaluator import PreparedExperiment

CHUNK: Final = 500_000
"""Number of ids that one core takes at a time."""

_BATCH: Final = 50_000
_SQL: Final = "select sha256($prefix || unit) as digits from units"

Column = Any  # Sequence[object] | NDArray[Any] | pa.Array | pa.ChunkedArray: pyarrow has no types


def assign_column(
    experiment: PreparedExperiment,
    units: Column,
    attributes: Sequence[Mapping[str, Any] | None] | None = None,
    *,
    threads: int | None = None,
    chunk: int = CHUNK,
) -> NDArray[np.int16]:
    """Assign a column of units.

    Args:
        experiment: The experiment.
        units: Arrow column, NumPy array or any sequence of ids: [n].
        attributes: One mapping for each id: [n]. Read only for the ids that pass all cheaper rules.
        threads: Number of threads; by default one for each core.
        chunk: Number of ids that a thread takes at a time.

    Returns:
        The position of the arm in `experiment.arms` for each enrolled id, -1 for the others: [n].
    """
    import duckdb

    result = np.full(len(units), -1, dtype=np.int16)
    if experiment.state != "running":
        return result

    def assign(start: int) -> None:
        chunk_attributes = None if attributes is None else attributes[start : start + chunk]
        with database.cursor() as connection:
            part = _Chunk(connection, units[start : start + chunk])
            result[start : start + chunk] = _served(experiment, part, chunk_attributes)

    # One of our threads for each chunk, and none of DuckDB's, which would use one thread for a chunk anyway.
    with (
        duckdb.connect(config={"threads": 1}) as database,
        ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool,
    ):
        for _ in pool.map(assign, range(0, len(units), chunk)):
            pass
    return result


def _served(
    experiment: PreparedExperiment, part: _Chunk, attributes: Sequence[Mapping[str, Any] | None] | None
) -> NDArray[np.int16]:
    """Return the position of the arm that the rules give each id, running or paused; -1 for the others. Order of E4."""
    config = experiment.config
    if experiment.state == "stopped":
        return np.full(len(part), -1, dtype=np.int16)
    gate, split = part.draws(config.salt, config.hash_version)
    # A2 as a table of all buckets. An invalid id has bucket -1: it reads the last entry, and does not pass the gate.
    arm_of_bucket = np.repeat(np.arange(len(experiment.arms), dtype=np.int16), np.diff((0, *experiment.arm_ends)))
    gate_of_bucket = np.asarray(experiment.gates(), dtype=np.int16)[arm_of_bucket]
    served = (gate >= 0) & (gate < gate_of_bucket[split])  # G1
    for holdout in config.holdouts:  # H1
        served &= part.draws(holdout.salt).gate >= holdout.size
    if (layer := config.layer) is not None:  # L2
        bucket = part.draws(layer.salt).gate
        served &= (bucket >= layer.start) & (bucket < layer.end)
    for other, needed in experiment.prerequisites:  # P1
        if other is None:
            served[:] = False
        else:
            served &= np.isin(
                _served(other, part, attributes), [other.arms.index(a) for a in needed.arms if a in other.arms]
            )
    if experiment.overrides:  # O1: a unit with an override is never enrolled
        for i, unit in enumerate(part.units()):
            if isinstance(unit, str) and experiment.forced_arm(unit) is not None:
                served[i] = False
    if experiment.condition is not None:  # T1-T4 come last: they cost as much as all other rules
        for i in np.flatnonzero(served).tolist():
            served[i] = experiment.condition.judge(None if attributes is None else attributes[i]) is None
    return np.where(served, arm_of_bucket[split], np.int16(-1))


class _Chunk:
    """A chunk of the column, and the draws of its ids."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, units: Any) -> None:
        self._connection = connection
        self._units = units
        self._table, self._invalid = _as_table(units)

    def __len__(self) -> int:
        return len(self._units)

    def units(self) -> Iterator[object]:
        """Iterate over the ids as Python objects."""
        return iter(self._units.to_pylist() if isinstance(self._units, pa.Array | pa.ChunkedArray) else self._units)

    def draws(self, salt: str, hash_version: HashVersion = "sha256") -> BucketColumns:
        """Draw the buckets of all ids with a salt: [n] each, -1 for an invalid id."""
        if self._table is None or hash_version != "sha256":
            return kernel.bucket_column(salt, list(self.units()), hash_version)
        self._connection.register("units", self._table)
        digests = self._connection.sql(_SQL, params={"prefix": kernel.prefix(salt).decode()})
        # As a stream: the digests of a chunk are never in memory together, and their memory is reused.
        parts = [
            kernel.columns_of_digests(_bytes_of_digits(batch.column("digits")))
            for batch in digests.to_arrow_reader(_BATCH)
        ]
        columns = BucketColumns(*map(np.concatenate, zip(*parts, strict=True)))
        if self._invalid is not None:
            for column in columns:
                column[self._invalid] = -1
        return columns


def _bytes_of_digits(digits: Any) -> NDArray[np.uint8]:
    """Convert digests of 64 hexadecimal digits to their first 16 bytes: [n, 16]. A null becomes zeros."""
    text = pc.fill_null(digits, "0" * 64).cast(pa.binary(64))
    words = np.frombuffer(text.buffers()[1], dtype=">u8", count=(text.offset + len(text)) * 8)[text.offset * 8 :]
    out = np.empty((len(text), 4), dtype=">u4")
    for i in range(4):
        # Eight letters at once: 0-9 are 0x30-0x39, a-f are 0x61-0x66; then join two, four, eight digits.
        x = words[i::8].astype(np.uint64)
        x = (x & np.uint64(0x0F0F0F0F0F0F0F0F)) + np.uint64(9) * ((x >> np.uint64(6)) & np.uint64(0x0101010101010101))
        x = (x | x >> np.uint64(4)) & np.uint64(0x00FF00FF00FF00FF)
        x = (x | x >> np.uint64(8)) & np.uint64(0x0000FFFF0000FFFF)
        out[:, i] = (x | x >> np.uint64(16)) & np.uint64(0xFFFFFFFF)
    return out.view(np.uint8)


def _as_table(units: Any) -> tuple[pa.Table | None, NDArray[np.bool_] | None]:
    """Convert ids to Arrow text.

    Returns:
        A table with the column `unit`, None when an id is not text; and a mask of the invalid ids (U1, U4, U5): [n],
        None when all are valid.
    """
    if not isinstance(units, pa.Array | pa.ChunkedArray):
        values = units.tolist() if hasattr(units, "tolist") else list(units)
        if not set(map(type, values)) <= {str, type(None)}:
            return None, None
        try:
            units = pa.array(values, pa.string())
        except UnicodeEncodeError:
            return None, None
    if not (pa.types.is_string(units.type) or pa.types.is_large_string(units.type)):
        return None, None
    length = pc.binary_length(units)
    invalid = pc.or_(pc.or_(pc.equal(length, 0), pc.greater(length, MAX_UNIT_BYTES)), pc.match_substring(units, "\0"))
    invalid = pc.fill_null(invalid, True)
    return pa.table({"unit": units}), invalid.to_numpy(zero_copy_only=False) if pc.any(invalid).as_py() else None

"""The history of every view: append-only Parquet parts, `<home>/history/<view>/part-*.parquet`.

A part is written aside under a name that readers do not match, synced, and renamed: after a crash at any moment a
folder holds only whole parts. Its rows are in the order of their keys, so that many parts can be gone through by key in
one pass (`feature_repo.history.parts`). Parts are never changed; a batch that is delivered twice is there twice, and
readers
take a (product, version) once. Times are microseconds in UTC: DuckDB cannot materialise nanoseconds.

Feast's own writer is not used: it rewrites one whole file for every push, not atomically.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from feature_repo.errors import HistoryError
from feature_repo.files import PARTIAL, atomic_file
from feature_repo.history.parts import KEY_ORDER, MERGED_PARTS, PartsReader, as_schema

_TIME: Final = pa.timestamp("us", tz="UTC")
_GUARD: Final = [("version", pa.int64()), ("deleted", pa.bool_())]
GROUP_ROWS: Final = 2048  # of a row group: whoever wants a few rows, or little memory, need not read a large part whole


def schema(features: dict[str, Any], key: str = "product_id") -> Any:
    """Arrow schema of a view's parts, with its payload features (name -> Arrow type) in the given order."""
    return pa.schema(
        [
            (key, pa.string()),
            ("event_timestamp", _TIME),
            ("created_timestamp", _TIME),
            *features.items(),
            *_GUARD,
        ]
    )


class History:
    """The parts of one view in one folder. Any number of processes may append and read; one should compact.

    The first column of `schema` is the key. A part that was written before the view had one of its features is read
    with null there. What a part of a newer program has beyond this schema is passed over, and such a part is left as it
    is when parts are merged.
    """

    def __init__(self, folder: Path, schema: Any) -> None:
        self.folder = folder
        self.schema = schema
        self._guard = {*schema.names[:3], *(name for name, _ in _GUARD)}  # key, times, version, deleted

    def create(self) -> None:
        """Make the folder, with a part of no rows if none has all columns: DuckDB must find each of them somewhere."""
        if not any(map(self._is_complete, reversed(self.parts()))):
            self.append(self.schema.empty_table())

    def append(self, table: Any) -> Path:
        """Write one part; it is durable and whole when this returns.

        Raises:
            HistoryError: the columns are not the view's, or the part cannot be written; nothing is left behind.
        """
        if table.schema != self.schema:
            raise HistoryError(f"A part for {self.folder} must have the schema {self.schema}, not {table.schema}.")
        return self._write_part(iter([table.take(pc.sort_indices(table[self.schema.names[0]]))]))

    def parts(self) -> list[Path]:
        """Whole parts, oldest first."""
        return sorted(self.folder.glob("*.parquet"))

    def read(self, columns: list[str] | None = None) -> Any:
        """All rows of all parts as one Arrow table, each (key, version) once: the one written last."""
        key = self.schema.names[0]
        names = list(dict.fromkeys([*(columns or self.schema.names), key, "version", "created_timestamp"]))
        parts = [self._read_part(part, names) for part in self.parts()]
        table = pa.concat_tables(parts) if parts else self.schema.empty_table().select(names)
        table = table.sort_by("created_timestamp")  # stable: of equal times, the later part's row stays last
        table = table.append_column("_row", pa.array(np.arange(table.num_rows)))
        last = table.group_by([key, "version"]).aggregate([("_row", "max")])["_row_max"]
        return table.take(np.sort(last.to_numpy())).select(columns or self.schema.names)

    def compact(self, rows_per_part: int = 100_000, grace_s: float = 60.0) -> int:
        """Merge small parts into parts of about `rows_per_part` rows, in bounded memory; how many parts went.

        Parts younger than `grace_s` seconds stay. A reader that listed the folder before may find a merged part
        gone and must list again; a crash between the two steps leaves rows twice, which readers take once.
        """
        self._remove_abandoned()
        young = time.time() - grace_s
        small = [
            part for part in self.parts() if part.stat().st_mtime <= young and self._mergeable(part, rows_per_part)
        ]
        gone = 0
        for group in _groups(small, rows_per_part):
            self._write_part(self._merged(group))
            for merged in group:
                merged.unlink(missing_ok=True)
            gone += len(group)
        return gone

    def _is_complete(self, part: Path) -> bool:
        try:
            return set(self.schema.names) <= set(pq.read_schema(part).names)
        except (pa.ArrowException, OSError):  # its readers will name it
            return False

    def _mergeable(self, part: Path, rows_per_part: int) -> bool:
        with pq.ParquetFile(part) as file:
            known = set(file.schema_arrow.names) <= set(self.schema.names)
            return known and file.metadata.num_rows < rows_per_part

    def _merged(self, parts: list[Path]) -> Iterator[Any]:
        """The rows of all parts in the order of their keys, of equal keys as they came; a row group at a time."""
        key = self.schema.names[0]
        keys = [pq.read_table(part, columns=[key], partitioning=None)[key] for part in parts]
        ends = np.cumsum([0, *map(len, keys)])
        order = pc.sort_indices(pa.chunked_array([chunk for column in keys for chunk in column.chunks], pa.string()))
        reader = PartsReader(GROUP_ROWS)
        for start in range(0, len(order), GROUP_ROWS):
            wanted = order[start : start + GROUP_ROWS].to_numpy().astype(np.int64)
            rows = np.sort(wanted)
            cuts = np.searchsorted(rows, ends)
            pieces = [
                (part, rows[cuts[i] : cuts[i + 1]] - ends[i]) for i, part in enumerate(parts) if cuts[i] < cuts[i + 1]
            ]
            yield reader.read(pieces, self.schema).take(pa.array(np.searchsorted(rows, wanted)))

    def _read_part(self, part: Path, names: list[str]) -> Any:
        try:
            with pq.ParquetFile(part) as file:
                there = set(file.schema_arrow.names)
                if lacking := self._guard - there:
                    raise HistoryError(f"{part} lacks the columns {sorted(lacking)}: it is not ours. Move it away.")
                table = file.read([name for name in names if name in there])
                return as_schema(table, pa.schema([self.schema.field(name) for name in names]))
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, HistoryError):
                raise
            raise HistoryError(f"{part} cannot be read ({error}). Move it away.") from error

    def _write_part(self, tables: Iterator[Any]) -> Path:
        # Names sort by time; the random part keeps processes that write in the same microsecond apart.
        name = f"part-{time.time_ns() // 1000:017d}-{uuid.uuid4().hex[:12]}.parquet"
        part = self.folder / name
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with (
                atomic_file(part, durable=True) as partial,
                pq.ParquetWriter(
                    partial, self.schema, compression="zstd", use_dictionary=False, sorting_columns=KEY_ORDER
                ) as writer,
            ):
                for table in tables:
                    writer.write_table(table, row_group_size=GROUP_ROWS)
        except (OSError, pa.ArrowException) as error:
            raise HistoryError(f"Cannot write {part}: {error}.") from error
        return part

    def _remove_abandoned(self) -> None:
        """Delete what writers that died have left, an hour after."""
        for aside in self.folder.glob(f"*{PARTIAL}"):
            if aside.stat().st_mtime < time.time() - 3600:
                aside.unlink(missing_ok=True)


def _groups(parts: list[Path], rows_per_part: int) -> Iterator[list[Path]]:
    """Runs of at least two parts that together just reach `rows_per_part` rows, or are as many as can be open."""
    group: list[Path] = []
    rows = 0
    for part in parts:
        group.append(part)
        rows += pq.read_metadata(part).num_rows
        if rows >= rows_per_part or len(group) == MERGED_PARTS:
            if len(group) > 1:
                yield group
            group, rows = [], 0
    if len(group) > 1:
        yield group

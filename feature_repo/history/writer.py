"""Appending to the history of a view: `<home>/history/<view>/part-*.parquet`.

A part is written aside under a name that readers do not match, synced, and renamed: after a crash, a folder holds only
complete parts. The rows of a part are sorted by key, so that one pass goes through many parts by key
(`feature_repo.history.parts`). Parts never change. A batch that is delivered twice is stored twice, and readers take a
(product, version) once. Times are microseconds in UTC: DuckDB cannot materialize nanoseconds.

Feast's own writer is not used: it rewrites one whole file for every push, and not atomically.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from feature_repo.definitions import CREATED_TIME, DELETED, EVENT_TIME, VERSION, history_folder
from feature_repo.errors import HistoryError
from feature_repo.files import atomic_file
from feature_repo.history.parts import GROUP_ROWS, KEY_ORDER, as_schema, check_columns, readable
from feature_repo.views import format_of

_TIME: Final = pa.timestamp("us", tz="UTC")


def history_schema(features: Mapping[str, pa.DataType], key: str = "product_id") -> pa.Schema:
    """Return the Arrow schema of a view's parts.

    Args:
        features: The payload features with their Arrow types, in the order of the view.
        key: The column of the entity key.
    """
    return pa.schema(
        [
            (key, pa.string()),
            (EVENT_TIME, _TIME),
            (CREATED_TIME, _TIME),
            *features.items(),
            (VERSION, pa.int64()),
            (DELETED, pa.bool_()),
        ]
    )


def history_of(home: Path, view_name: str) -> History:
    """Return the history of a view of the store in `home`, by the view's full name."""
    form = format_of(view_name)
    return History(history_folder(home, view_name), history_schema(form.types, form.key))


class History:
    """The parts of one view in one folder. Any number of processes may append and read.

    In a part that was written before the view had a feature, that feature reads as null. Columns of a part that the
    schema does not have, written by a newer program, are ignored.

    Attributes:
        folder: The folder of the parts.
        schema: The Arrow schema of `history_schema`.
        group_rows: The number of rows of a row group.
    """

    def __init__(self, folder: Path, schema: pa.Schema, group_rows: int = GROUP_ROWS) -> None:
        self.folder = folder
        self.schema = schema
        self.group_rows = group_rows

    @property
    def key(self) -> str:
        """The column of the entity key."""
        return str(self.schema.names[0])

    def create(self) -> None:
        """Make the folder, with an empty part unless a part has all columns: DuckDB must find each column somewhere."""
        if not any(map(self._is_complete, reversed(self.parts()))):
            self.append(self.schema.empty_table())

    def append(self, table: pa.Table) -> Path:
        """Write one part, which is complete and durable when this returns.

        Raises:
            HistoryError: The columns are not the view's, or the part cannot be written; nothing stays behind.
        """
        if table.schema != self.schema:
            raise HistoryError(f"A part for {self.folder} must have the schema {self.schema}, not {table.schema}.")
        return self.write_part([table.take(pc.sort_indices(table[self.key]))])

    def parts(self) -> list[Path]:
        """Return the complete parts, oldest first."""
        return sorted(self.folder.glob("*.parquet"))

    def read(self, columns: list[str] | None = None) -> pa.Table:
        """Return all rows of all parts, each (key, version) once: the row that was written last."""
        names = list(dict.fromkeys([*(columns or self.schema.names), self.key, VERSION, CREATED_TIME]))
        parts = [self._read_part(part, names) for part in self.parts()]
        table = pa.concat_tables(parts) if parts else self.schema.empty_table().select(names)
        table = table.sort_by(CREATED_TIME)  # stable: of equal times, the row of the later part stays last
        table = table.append_column("_row", pa.array(np.arange(table.num_rows)))
        last = table.group_by([self.key, VERSION]).aggregate([("_row", "max")])["_row_max"]
        return table.take(np.sort(last.to_numpy())).select(columns or self.schema.names)

    def write_part(self, tables: Iterable[pa.Table]) -> Path:
        """Write one part from tables of this schema whose rows are sorted by key across all tables.

        Raises:
            HistoryError: The part cannot be written; nothing stays behind.
        """
        # Names sort by time; the random half keeps processes that write in the same microsecond apart.
        part = self.folder / f"part-{time.time_ns() // 1000:017d}-{uuid.uuid4().hex[:12]}.parquet"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with (
                atomic_file(part, durable=True) as partial,
                pq.ParquetWriter(
                    partial, self.schema, compression="zstd", use_dictionary=False, sorting_columns=KEY_ORDER
                ) as writer,
            ):
                for table in tables:
                    writer.write_table(table, row_group_size=self.group_rows)
        except HistoryError:
            raise
        except (OSError, pa.ArrowException) as error:
            raise HistoryError(f"Cannot write {part}: {error}.") from error
        return part

    def _is_complete(self, part: Path) -> bool:
        try:
            return set(self.schema.names) <= set(pq.read_schema(part).names)
        except (pa.ArrowException, OSError):  # readers report it
            return False

    def _read_part(self, part: Path, names: list[str]) -> pa.Table:
        with readable(part), pq.ParquetFile(part) as file:
            columns = set(file.schema_arrow.names)
            check_columns(part, columns, [*self.schema.names[:3], VERSION, DELETED])
            table = file.read([name for name in names if name in columns])
            return as_schema(table, pa.schema([self.schema.field(name) for name in names]))

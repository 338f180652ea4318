"""Reading the Parquet parts of a history by row numbers, forwards, in bounded memory.

A part's rows are in the order of their keys (`feature_repo.history.writer`). A range of keys is thus a range of rows
in each
part, and to go through many parts by their keys each is read once, from front to back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from feature_repo.errors import HistoryError

Pieces = Sequence[tuple[Path, NDArray[np.int64]]]
"""Rows of parts: of each its row numbers, ascending."""

KEY_ORDER: Final = (pq.SortingColumn(0),)
"""What a part in the order of its keys says of itself: the first column is the key."""
MERGED_PARTS: Final = 128  # parts that are gone through together: each that is open takes some memory
_READ_BUFFER: Final = 1 << 20  # bytes of a column chunk held while it is read: row groups may be large
_LEAST_BATCH: Final = 64


class PartGoneError(HistoryError):
    """Compaction has merged a part into another since it was listed."""


class PartsReader:
    """Takes rows out of parts; a part stays open where the last rows were found, so that the next go on there.

    Args:
        batch_rows: rows that are held at a time, of all open parts together: up to twice as many between two reads.
    """

    def __init__(self, batch_rows: int) -> None:
        self._batch_rows = batch_rows
        self._most_held = max(2 * batch_rows, MERGED_PARTS * _LEAST_BATCH)
        self._open: dict[Path, _OpenPart] = {}  # those used last stand last
        self._names: list[str] = []

    def read(self, pieces: Pieces, schema: Any) -> Any:
        """These rows, part after part, as a table of `schema`; see `as_schema`.

        Raises:
            PartGoneError: a part was merged into another meanwhile.
            HistoryError: a part cannot be read.
        """
        if self._names != schema.names:
            self._open, self._names = {}, list(schema.names)
        batch_rows = max(self._batch_rows // len(pieces), _LEAST_BATCH)
        table = pa.concat_tables([self._piece(part, rows, schema, batch_rows) for part, rows in pieces])
        held = sum(part.held for part in self._open.values())
        while held > self._most_held and len(self._open) > 1:
            held -= self._open.pop(next(iter(self._open))).held
        return table

    def _piece(self, part: Path, rows: NDArray[np.int64], schema: Any, batch_rows: int) -> Any:
        opened = self._open.pop(part, None)
        try:
            if opened is None or not opened.leads_to(int(rows[0])):
                opened = _OpenPart(part, self._names, batch_rows)
            table = as_schema(pa.Table.from_batches(opened.take(rows)), schema)
        except FileNotFoundError as error:
            raise PartGoneError(f"The history was compacted meanwhile ({part} is gone): call again.") from error
        except (pa.ArrowException, OSError, StopIteration) as error:  # the last: fewer rows than its footer says
            raise HistoryError(f"{part} cannot be read ({error}). Move it away.") from error
        self._open[part] = opened
        if len(self._open) > MERGED_PARTS:
            del self._open[next(iter(self._open))]
        return table


def in_key_order(part: Path) -> bool:
    """Whether the part says that its rows are in the order of their keys; those that older programs wrote do not.

    Raises:
        PartGoneError, HistoryError: as `PartsReader.read`.
    """
    try:
        metadata = pq.read_metadata(part)
    except FileNotFoundError as error:
        raise PartGoneError(f"The history was compacted meanwhile ({part} is gone): call again.") from error
    except (pa.ArrowException, OSError) as error:
        raise HistoryError(f"{part} cannot be read ({error}). Move it away.") from error
    return metadata.num_row_groups == 0 or bool(metadata.row_group(0).sorting_columns == KEY_ORDER)


def as_schema(table: Any, schema: Any) -> Any:
    """The columns of `schema`; null those of features that the view did not have when the part was written."""
    columns = []
    for field in schema:
        there = field.name in table.schema.names
        columns.append(table[field.name].cast(field.type) if there else pa.nulls(table.num_rows, field.type))
    return pa.Table.from_arrays(columns, schema=schema)


class _OpenPart:
    """A part that is read forwards, a batch at a time; row groups without a wanted row are not read."""

    def __init__(self, part: Path, names: Sequence[str], batch_rows: int) -> None:
        self._batch_rows = batch_rows
        self._file = pq.ParquetFile(part, buffer_size=_READ_BUFFER, pre_buffer=False)
        self._there = [name for name in names if name in self._file.schema_arrow.names]
        sizes = [self._file.metadata.row_group(group).num_rows for group in range(self._file.num_row_groups)]
        self._starts = np.cumsum([0, *sizes])
        self._group = -1
        self._batches: Iterator[Any] = iter(())
        self._batch: Any = None
        self._first = self._after = 0  # row numbers of the present batch

    @property
    def held(self) -> int:
        """Rows of the present batch."""
        return 0 if self._batch is None else int(self._batch.num_rows)

    def leads_to(self, row: int) -> bool:
        """Whether this row is still ahead."""
        return row >= self._first

    def take(self, rows: NDArray[np.int64]) -> list[Any]:
        """Batches with just these rows, ascending row numbers."""
        taken = []
        while len(rows):
            if rows[0] >= self._after:
                self._go_to(int(rows[0]))
            here = int(np.searchsorted(rows, self._after))
            first, last = int(rows[0]) - self._first, int(rows[here - 1]) - self._first
            if last - first + 1 == here:
                taken.append(self._batch.slice(first, here))
            else:
                taken.append(self._batch.take(pa.array(rows[:here] - self._first)))
            rows = rows[here:]
        return taken

    def _go_to(self, row: int) -> None:
        group = int(np.searchsorted(self._starts, row, "right")) - 1
        if group != self._group:
            self._group, self._after = group, int(self._starts[group])
            self._batches = self._file.iter_batches(self._batch_rows, row_groups=[group], columns=self._there)
        while row >= self._after:
            self._batch = next(self._batches)
            self._first, self._after = self._after, self._after + self._batch.num_rows

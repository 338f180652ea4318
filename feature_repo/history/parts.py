"""The Parquet parts of a history, and reading their rows by row number in bounded memory.

The rows of a part are sorted by key (`feature_repo.history.writer`), so a range of keys is a range of rows in each
part. A pass over many parts by key therefore reads each part once, from front to back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from feature_repo.errors import HistoryError

Pieces = Sequence[tuple[Path, NDArray[np.int64]]]
"""Rows of parts: for each part its row numbers, ascending."""

KEY_ORDER: Final = (pq.SortingColumn(0),)
"""The sorting columns that a sorted part declares: the first column is the key."""

# Bounds of memory. A reader holds the rows of one read, at most the larger of `2 * batch_rows` and
# `MERGED_PARTS * MIN_BATCH_ROWS` rows of batches, and at most `MERGED_PARTS` open parts with `READ_BUFFER` bytes each.
GROUP_ROWS: Final = 2048
"""Rows of a row group: a reader that needs few rows, or little memory, does not read a large part whole."""
MERGED_PARTS: Final = 128
"""Parts that one pass reads together; each open part takes some memory."""
MIN_BATCH_ROWS: Final = 64
"""Rows of the smallest batch."""
READ_BUFFER: Final = 1 << 20
"""Bytes of a column chunk in memory while it is read: row groups of other writers can be large."""


class PartGoneError(HistoryError):
    """Compaction has merged a part into another one since it was listed."""


@contextmanager
def readable(part: Path) -> Iterator[None]:
    """Raise this package's errors for those of reading a part.

    Raises:
        PartGoneError: The part no longer exists.
        HistoryError: The part cannot be read.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise PartGoneError(f"{part} is gone: compaction has merged it into another part. Call again.") from error
    except HistoryError:
        raise
    except (pa.ArrowException, OSError, StopIteration) as error:  # the last: fewer rows than the footer says
        raise HistoryError(f"{part} cannot be read ({error}). Move it away.") from error


def check_columns(part: Path, columns: Iterable[str], needed: Iterable[str]) -> None:
    """Check the columns of a part.

    Raises:
        HistoryError: A needed column is missing.
    """
    if missing := set(needed).difference(columns):
        raise HistoryError(f"{part} lacks the columns {sorted(missing)}: it is no part of this history. Move it away.")


def is_sorted_by_key(part: Path) -> bool:
    """Whether the part declares that its rows are sorted by key; parts of other writers may not.

    Raises:
        PartGoneError: The part no longer exists.
        HistoryError: The part cannot be read.
    """
    with readable(part):
        metadata = pq.read_metadata(part)
        return metadata.num_row_groups == 0 or bool(metadata.row_group(0).sorting_columns == KEY_ORDER)


def as_schema(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return the columns of `schema`; a feature that the view did not have when the part was written is null."""
    columns = [
        table[field.name].cast(field.type) if field.name in table.schema.names else pa.nulls(len(table), field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


class PartsReader:
    """Reads rows of parts by row number. A part stays open at its last rows, so that the next read continues there.

    Args:
        batch_rows: The rows that one batch of all open parts together holds; see the bounds above.
        max_open: The number of open parts, at most.
        min_batch_rows: The rows of the smallest batch.
    """

    def __init__(self, batch_rows: int, max_open: int = MERGED_PARTS, min_batch_rows: int = MIN_BATCH_ROWS) -> None:
        self._batch_rows, self._max_open, self._min_batch_rows = batch_rows, max_open, min_batch_rows
        self._max_held = max(2 * batch_rows, max_open * min_batch_rows)
        self._open: dict[Path, _OpenPart] = {}  # the most recently used last
        self._names: list[str] = []

    def read(self, pieces: Pieces, schema: pa.Schema) -> pa.Table:
        """Return these rows, part after part, as a table of `schema`; see `as_schema`.

        Raises:
            PartGoneError: Compaction has merged a part into another one.
            HistoryError: A part cannot be read.
        """
        if self._names != schema.names:
            self._open, self._names = {}, list(schema.names)
        batch_rows = max(self._batch_rows // len(pieces), self._min_batch_rows)
        table = pa.concat_tables([self._read_piece(part, rows, schema, batch_rows) for part, rows in pieces])
        self._close_beyond_bounds()
        return table

    @property
    def held(self) -> int:
        """The rows that the open parts hold."""
        return sum(part.held for part in self._open.values())

    def _read_piece(self, part: Path, rows: NDArray[np.int64], schema: pa.Schema, batch_rows: int) -> pa.Table:
        opened = self._open.pop(part, None)
        with readable(part):
            if opened is None or not opened.is_before(int(rows[0])):
                opened = _OpenPart(part, self._names, batch_rows)
            table = as_schema(pa.Table.from_batches(opened.take(rows)), schema)
        self._open[part] = opened
        if len(self._open) > self._max_open:
            del self._open[next(iter(self._open))]
        return table

    def _close_beyond_bounds(self) -> None:
        """Close the least recently used parts while the open ones hold too many rows."""
        held = self.held
        while held > self._max_held and len(self._open) > 1:
            held -= self._open.pop(next(iter(self._open))).held


class _OpenPart:
    """A part that is read forwards, a batch at a time, without the row groups that hold none of the rows."""

    def __init__(self, part: Path, names: Sequence[str], batch_rows: int) -> None:
        self._batch_rows = batch_rows
        self._file = pq.ParquetFile(part, buffer_size=READ_BUFFER, pre_buffer=False)
        self._columns = [name for name in names if name in self._file.schema_arrow.names]
        sizes = [self._file.metadata.row_group(group).num_rows for group in range(self._file.num_row_groups)]
        self._group_starts = np.cumsum([0, *sizes])
        self._group = -1
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._batch: pa.RecordBatch | None = None
        self._first = self._end = 0  # row numbers of the current batch, the end exclusive

    @property
    def held(self) -> int:
        """Rows of the current batch."""
        return 0 if self._batch is None else int(self._batch.num_rows)

    def is_before(self, row: int) -> bool:
        """Whether reading forwards reaches this row."""
        return row >= self._first

    def take(self, rows: NDArray[np.int64]) -> list[pa.RecordBatch]:
        """Return batches with exactly these rows; the row numbers ascend."""
        taken = []
        while len(rows):
            if rows[0] >= self._end:
                self._advance_to(int(rows[0]))
            assert self._batch is not None
            here = int(np.searchsorted(rows, self._end))
            first, last = int(rows[0]) - self._first, int(rows[here - 1]) - self._first
            if last - first + 1 == here:
                taken.append(self._batch.slice(first, here))
            else:
                taken.append(self._batch.take(pa.array(rows[:here] - self._first)))
            rows = rows[here:]
        return taken

    def _advance_to(self, row: int) -> None:
        group = int(np.searchsorted(self._group_starts, row, "right")) - 1
        if group != self._group:
            self._group, self._end = group, int(self._group_starts[group])
            self._batches = self._file.iter_batches(self._batch_rows, row_groups=[group], columns=self._columns)
        while row >= self._end:
            self._batch = next(self._batches)
            self._first, self._end = self._end, self._end + self._batch.num_rows

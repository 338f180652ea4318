"""Merging small parts of a history into larger ones, in bounded memory."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from feature_repo.files import PARTIAL
from feature_repo.history.parts import MERGED_PARTS, PartsReader
from feature_repo.history.writer import History

ROWS_PER_PART: Final = 100_000
_ABANDONED_S: Final = 3600  # age of a partial file whose writer has died


def compact(
    history: History, rows_per_part: int = ROWS_PER_PART, grace_s: float = 60.0, merged_parts: int = MERGED_PARTS
) -> int:
    """Merge small parts into parts of about `rows_per_part` rows. One process at a time should do this.

    A reader that has listed the folder before may find a merged part gone, and must list again. A crash between the
    write of the merged part and the removal of its sources leaves rows twice, and readers take them once.

    Args:
        history: The history of one view.
        rows_per_part: A part with as many rows is left as it is.
        grace_s: Parts younger than this, in seconds, are left as they are.
        merged_parts: The number of parts that one merge reads together, at most.

    Returns:
        The number of parts that were merged into others.

    Raises:
        HistoryError: A part cannot be read or written; no row is lost.
    """
    _remove_abandoned(history)
    newest = time.time() - grace_s
    small = [
        part
        for part in history.parts()
        if part.stat().st_mtime <= newest and _is_mergeable(history, part, rows_per_part)
    ]
    merged = 0
    for group in _groups(small, rows_per_part, merged_parts):
        history.write_part(_merged_tables(history, group))
        for part in group:
            part.unlink(missing_ok=True)
        merged += len(group)
    return merged


def _remove_abandoned(history: History) -> None:
    for partial in history.folder.glob(f"*{PARTIAL}"):
        if partial.stat().st_mtime < time.time() - _ABANDONED_S:
            partial.unlink(missing_ok=True)


def _is_mergeable(history: History, part: Path, rows_per_part: int) -> bool:
    """Whether a part is small and has no column of a newer program, which merging would drop."""
    with pq.ParquetFile(part) as file:
        columns = set(file.schema_arrow.names)
        return columns <= set(history.schema.names) and file.metadata.num_rows < rows_per_part


def _groups(parts: Sequence[Path], rows_per_part: int, merged_parts: int) -> Iterator[list[Path]]:
    """Yield runs of at least two parts that together just reach `rows_per_part` rows, or are `merged_parts` many."""
    group: list[Path] = []
    rows = 0
    for part in parts:
        group.append(part)
        rows += pq.read_metadata(part).num_rows
        if rows >= rows_per_part or len(group) == merged_parts:
            if len(group) > 1:
                yield group
            group, rows = [], 0
    if len(group) > 1:
        yield group


def _merged_tables(history: History, parts: Sequence[Path]) -> Iterator[pa.Table]:
    """Yield the rows of all parts sorted by key and then by part, a row group at a time."""
    keys = [pq.read_table(part, columns=[history.key], partitioning=None)[history.key] for part in parts]
    ends = np.cumsum([0, *map(len, keys)])
    order = pc.sort_indices(pa.chunked_array([chunk for column in keys for chunk in column.chunks], pa.string()))
    rows_at_once = history.group_rows
    reader = PartsReader(rows_at_once)
    for start in range(0, len(order), rows_at_once):
        selected = order[start : start + rows_at_once].to_numpy().astype(np.int64)
        rows = np.sort(selected)
        cuts = np.searchsorted(rows, ends)
        pieces = [
            (part, rows[cuts[i] : cuts[i + 1]] - ends[i]) for i, part in enumerate(parts) if cuts[i] < cuts[i + 1]
        ]
        yield reader.read(pieces, history.schema).take(pa.array(np.searchsorted(rows, selected)))

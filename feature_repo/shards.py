"""The work on one shard: some thousand rows of a view, read from the history, written online, and later read back.

A `ShardJob` depends on nothing but what it is given and can be pickled: the same code runs in the process of the job
and in those of a cluster (`feature_repo.spark`), wherever the history's folder and the online store can be reached.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol, TypeVar, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from feast.infra.online_stores.helpers import get_online_store_from_config
from numpy.typing import NDArray

from feature_repo.arrow_rows import content_checksum, online_rows
from feature_repo.definitions import CREATED_TIME, VERSION
from feature_repo.errors import HistoryError
from feature_repo.history import as_schema
from feature_repo.stores.base import GuardedOnlineStore, payload_columns
from feature_repo.values import encode_key

KINDS: Final = ("equal", "fresher", "missing", "older", "different")
"""What a row of the history is online; see `feature_repo.materialize.Reconciliation`."""

_READ_BUFFER: Final = 1 << 20  # bytes of a column chunk held while it is read: row groups may be large

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")


class Shard(NamedTuple):
    """Rows to write: of each part the row numbers, ascending."""

    number: int
    pieces: list[tuple[Path, NDArray[np.int64]]]


class WrittenShard(NamedTuple):
    """A shard that is online. Arrow arrays of one length, `checksums` as `content_checksum` makes them."""

    number: int
    ids: Any
    versions: Any
    created_us: Any
    checksums: list[int]
    kept: int  # rows that were there already, at this version or a newer one
    event_us: tuple[int, int]  # first and last


class DoneShard(NamedTuple):
    """What the journal remembers of a written shard."""

    number: int
    ids: list[str]
    versions: list[int]
    checksums: list[int]


class ComparedShard(NamedTuple):
    """A shard read back: rows of each kind, and the checksums of both sides without the fresher rows."""

    number: int
    found: dict[str, int]
    history: int
    online: int


class PartGoneError(HistoryError):
    """Compaction has merged a part into another since it was listed."""


class Engine(Protocol):
    """Where shards are worked on."""

    def check(self, job: ShardJob, part: Path, identity: str) -> None:
        """Whether all workers see this part of the history, and the online store of this identity.

        Raises:
            StoreStateError: one does not.
        """

    def map(self, work: Callable[[_Task], _Result], tasks: Iterable[_Task]) -> Iterator[_Result]:
        """The results of `work`, in any order, each as soon as it is there. `work` can be pickled."""


class InProcess:
    """One shard after the other, here."""

    def check(self, job: ShardJob, part: Path, identity: str) -> None:
        """Nothing: the part was listed and the identity read by this process."""

    def map(self, work: Callable[[_Task], _Result], tasks: Iterable[_Task]) -> Iterator[_Result]:
        return map(work, tasks)


class ShardJob:
    """What is done with each shard of one view.

    Args:
        config: Feast's, with the online store's settings.
        view: Feast's view.
        schema: of its history.
        equal: whether rows of a version that is online already are written again.
        batch_rows: rows that are held while a part is read.
        online: the store to use; without it one is opened, and kept for further jobs of the process.
    """

    def __init__(
        self,
        config: Any,
        view: Any,
        schema: Any,
        *,
        equal: bool,
        batch_rows: int,
        online: GuardedOnlineStore | None = None,
    ) -> None:
        self._given = (config, view, schema, equal, batch_rows)
        self._config, self._view, self._schema, self._equal, self._batch_rows = self._given
        self._online = online or _opened(pickle.dumps(config.online_store))
        self._open: _OpenPart | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _remade, self._given

    def write(self, shard: Shard) -> WrittenShard:
        """Write the rows online that no newer ones are there of.

        Raises:
            PartGoneError: the history was compacted.
            HistoryError: a part cannot be read, or holds what the view cannot.
            FeatureRepoError: the store cannot be written; nothing of the shard is.
        """
        table = self.read(shard, self._schema.names)
        rows = online_rows(table, self._view)
        (stale,) = self._online.write(self._config, [(self._view, rows)], equal=self._equal)
        times = [row.event_us for row in rows]
        ids, versions, created = table[self.key], table[VERSION], table[CREATED_TIME].cast(pa.int64())
        return WrittenShard(
            number=shard.number,
            ids=ids.combine_chunks(),
            versions=versions.combine_chunks(),
            created_us=created.combine_chunks(),
            checksums=list(map(content_checksum, rows)),
            kept=len(stale),
            event_us=(min(times), max(times)),
        )

    def compare(self, shard: DoneShard) -> ComparedShard:
        """Read a shard back."""
        join_key = self.key
        keys = [encode_key(id, join_key) for id in shard.ids]
        wanted = [(self._view, payload_columns(self._view))]
        (stored,) = self._online.read(self._config, wanted, keys, own_versions=True)
        found = dict.fromkeys(KINDS, 0)
        history = online = 0
        for key, version, checksum in zip(keys, shard.versions, shard.checksums, strict=True):
            row = stored.get(key)
            if row is not None and row.version > version:
                found["fresher"] += 1
                continue
            history ^= checksum
            if row is None:
                found["missing"] += 1
                continue
            there = content_checksum(row)
            online ^= there
            found["older" if row.version < version else "equal" if there == checksum else "different"] += 1
        return ComparedShard(shard.number, found, history, online)

    def look(self, part: Path) -> tuple[bool, str]:
        """Whether this process sees the part, and the identity of the view's table in the store that it sees."""
        return part.exists(), self._online.identity(self._config, self._view)

    @property
    def config(self) -> Any:
        """Feast's."""
        return self._config

    @property
    def key(self) -> str:
        """The column that says whose row it is."""
        return str(self._schema.names[0])

    def read(self, shard: Shard, columns: Sequence[str]) -> Any:
        """The shard's rows as a table of these columns.

        Raises:
            PartGoneError, HistoryError: as `write`.
        """
        schema = pa.schema([self._schema.field(name) for name in columns])
        return pa.concat_tables([self._piece(part, rows, schema) for part, rows in shard.pieces])

    def _piece(self, part: Path, rows: NDArray[np.int64], schema: Any) -> Any:
        try:
            if self._open is None or not self._open.leads_to(part, schema.names, int(rows[0])):
                self._open = _OpenPart(part, schema.names, self._batch_rows)
            return as_schema(pa.Table.from_batches(self._open.take(rows)), schema)
        except FileNotFoundError as error:
            raise PartGoneError(f"The history was compacted meanwhile ({part} is gone): call again.") from error
        except (pa.ArrowException, OSError, StopIteration) as error:  # the last: fewer rows than its footer says
            raise HistoryError(f"{part} cannot be read ({error}). Move it away.") from error


class _OpenPart:
    """A part that is read forwards, a batch at a time; row groups without a wanted row are not read.

    Shards that follow each other in one row group find it where the one before has left it.
    """

    def __init__(self, part: Path, names: Sequence[str], batch_rows: int) -> None:
        self._part, self._names, self._batch_rows = part, list(names), batch_rows
        self._file = pq.ParquetFile(part, buffer_size=_READ_BUFFER, pre_buffer=False)
        self._there = [name for name in names if name in self._file.schema_arrow.names]
        sizes = [self._file.metadata.row_group(group).num_rows for group in range(self._file.num_row_groups)]
        self._starts = np.cumsum([0, *sizes])
        self._group = -1
        self._batches: Iterator[Any] = iter(())
        self._batch: Any = None
        self._first = self._after = 0  # row numbers of the present batch

    def leads_to(self, part: Path, names: Sequence[str], row: int) -> bool:
        """Whether this row is still ahead."""
        return self._part == part and self._names == list(names) and row >= self._first

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


def _remade(config: Any, view: Any, schema: Any, equal: bool, batch_rows: int) -> ShardJob:
    return ShardJob(config, view, schema, equal=equal, batch_rows=batch_rows)


@lru_cache(maxsize=8)
def _opened(settings: bytes) -> GuardedOnlineStore:
    """The online store of these settings, pickled: opened once in a worker process, not for each shard."""
    return cast(GuardedOnlineStore, get_online_store_from_config(pickle.loads(settings)))

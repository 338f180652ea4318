"""Materializing one shard: some thousand rows of a view, read from the history, written online, and later read back.

A `ShardJob` depends on its arguments alone and can be pickled. The same code runs in the job's process and in those of
a cluster, wherever the folder of the history and the online store can be reached.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, cast, get_args

import pyarrow as pa
from feast import FeatureView, RepoConfig
from feast.infra.online_stores.helpers import get_online_store_from_config
from feast.repo_config import FeastConfigBaseModel

from feature_repo.definitions import CREATED_TIME, VERSION
from feature_repo.history.arrow_rows import content_checksum, online_rows
from feature_repo.history.parts import PartsReader, Pieces
from feature_repo.jobs.engine import PerProcess
from feature_repo.online_row import OnlineRow, payload_columns
from feature_repo.stores.base import GuardedOnlineStore
from feature_repo.values import encode_key

RowState = Literal["equal", "fresher", "missing", "older", "different"]
"""How a row of the history compares with its online row; see `feature_repo.jobs.reconciliation.Reconciliation`."""
ROW_STATES: tuple[RowState, ...] = get_args(RowState)


class Shard(NamedTuple):
    """Rows of the history to write."""

    number: int
    pieces: Pieces


class WrittenShard(NamedTuple):
    """A shard that is online; the sequences have one length.

    Attributes:
        number: The number of the shard.
        ids: Strings.
        versions: Int64.
        created_us: Created times in microseconds since the Unix epoch.
        checksums: The rows' `content_checksum`s.
        kept: The number of rows that were online before, at the same or a newer version.
        event_us: The first and the last event time in microseconds since the Unix epoch.
    """

    number: int
    ids: pa.Array
    versions: pa.Array
    created_us: pa.Array
    checksums: list[int]
    kept: int
    event_us: tuple[int, int]


class DoneShard(NamedTuple):
    """What the journal holds of a written shard; the lists have one length."""

    number: int
    ids: list[str]
    versions: list[int]
    checksums: list[int]


class ComparedShard(NamedTuple):
    """A shard that was read back.

    Attributes:
        number: The number of the shard.
        counts: The number of rows in each state.
        history: The checksum of the history's rows, without the fresher ones.
        online: The checksum of the online rows, without the fresher ones.
    """

    number: int
    counts: dict[RowState, int]
    history: int
    online: int


class ShardJob:
    """The work on the shards of one view.

    Args:
        config: Feast's configuration, with the settings of the online store.
        view: The view.
        schema: The schema of the view's history.
        equal: Whether to write rows again whose version is online already.
        batch_rows: The number of rows in memory while a part is read.
        online: The online store of this process; without it, the first shard opens one.
    """

    def __init__(
        self,
        config: RepoConfig,
        view: FeatureView,
        schema: pa.Schema,
        *,
        equal: bool,
        batch_rows: int,
        online: GuardedOnlineStore | None = None,
    ) -> None:
        self.config = config
        self._view, self._schema, self._equal, self._batch_rows = view, schema, equal, batch_rows
        self._online = PerProcess(partial(_open_online_store, config.online_store), online)
        self._parts = PartsReader(batch_rows)

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        """Leave the open parts out of the pickled copy."""
        copy = partial(ShardJob, equal=self._equal, batch_rows=self._batch_rows)
        return copy, (self.config, self._view, self._schema)

    @property
    def key(self) -> str:
        """The column of the entity key."""
        return str(self._schema.names[0])

    def read(self, shard: Shard, columns: Sequence[str]) -> pa.Table:
        """Read some columns of the shard's rows.

        Raises:
            PartGoneError: Compaction has merged a part into another one.
            HistoryError: A part cannot be read.
        """
        return self._parts.read(shard.pieces, pa.schema([self._schema.field(name) for name in columns]))

    def write(self, shard: Shard) -> WrittenShard:
        """Write the shard's rows, except rows with a newer version online.

        Raises:
            PartGoneError: Compaction has merged a part into another one.
            HistoryError: A part cannot be read, or has a row that the view cannot hold.
            FeatureRepoError: The store cannot be written; no row of the shard was.
        """
        table = self.read(shard, self._schema.names)
        rows = online_rows(table, self._view)
        online = self._online.get()
        (refused,) = online.write(self.config, [(self._view, rows)], equal=self._equal, repair=self._equal)
        times = [row.event_us for row in rows]
        return WrittenShard(
            number=shard.number,
            ids=table[self.key].combine_chunks(),
            versions=table[VERSION].combine_chunks(),
            created_us=table[CREATED_TIME].cast(pa.int64()).combine_chunks(),
            checksums=list(map(content_checksum, rows)),
            kept=len(refused),
            event_us=(min(times), max(times)),
        )

    def compare(self, shard: DoneShard) -> ComparedShard:
        """Read a written shard back from the online store and compare it with the history."""
        keys = [encode_key(id, self.key) for id in shard.ids]
        columns = [(self._view, payload_columns(self._view))]
        (stored,) = self._online.get().read(self.config, columns, keys, own_versions=True)
        counts: dict[RowState, int] = dict.fromkeys(ROW_STATES, 0)
        history = online = 0
        for key, version, checksum in zip(keys, shard.versions, shard.checksums, strict=True):
            state, online_checksum = _compare_row(stored.get(key), version, checksum)
            counts[state] += 1
            if state != "fresher":
                history ^= checksum
                online ^= online_checksum
        return ComparedShard(shard.number, counts, history, online)

    def inspect(self, part: Path) -> tuple[bool, str]:
        """Return whether this process sees the part, and the identity of the view's table in its online store."""
        return part.exists(), self._online.get().identity(self.config, self._view)


def _compare_row(row: OnlineRow | None, version: int, checksum: int) -> tuple[RowState, int]:
    """Return the state of an online row and its checksum; a row that is missing or fresher has checksum 0."""
    if row is None:
        return "missing", 0
    if row.version > version:
        return "fresher", 0
    online = content_checksum(row)
    if row.version < version:
        return "older", online
    return ("equal" if online == checksum else "different"), online


def _open_online_store(settings: FeastConfigBaseModel) -> GuardedOnlineStore:
    return cast(GuardedOnlineStore, get_online_store_from_config(settings))

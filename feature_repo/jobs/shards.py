"""The work on one shard: some thousand rows of a view, read from the history, written online, and later read back.

A `ShardJob` depends on nothing but what it is given and can be pickled: the same code runs in the process of the job
and in those of a cluster (`feature_repo.jobs.spark`), wherever the history's folder and the online store can be
reached.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol, TypeVar, cast

import pyarrow as pa
from feast.infra.online_stores.helpers import get_online_store_from_config

from feature_repo.definitions import CREATED_TIME, VERSION
from feature_repo.history.arrow_rows import content_checksum, online_rows
from feature_repo.history.parts import PartsReader, Pieces
from feature_repo.stores.base import GuardedOnlineStore, payload_columns
from feature_repo.values import encode_key

KINDS: Final = ("equal", "fresher", "missing", "older", "different")
"""What a row of the history is online; see `feature_repo.jobs.materialize.Reconciliation`."""

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")


class Shard(NamedTuple):
    """Rows to write."""

    number: int
    pieces: Pieces


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
        self._parts = PartsReader(batch_rows)

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
        (stale,) = self._online.write(self._config, [(self._view, rows)], equal=self._equal, repair=self._equal)
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
            PartGoneError, HistoryError: as `PartsReader.read`.
        """
        return self._parts.read(shard.pieces, pa.schema([self._schema.field(name) for name in columns]))


def _remade(config: Any, view: Any, schema: Any, equal: bool, batch_rows: int) -> ShardJob:
    return ShardJob(config, view, schema, equal=equal, batch_rows=batch_rows)


@lru_cache(maxsize=8)
def _opened(settings: bytes) -> GuardedOnlineStore:
    """The online store of these settings, pickled: opened once in a worker process, not for each shard."""
    return cast(GuardedOnlineStore, get_online_store_from_config(pickle.loads(settings)))

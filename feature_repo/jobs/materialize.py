"""Jobs that bring the history into the online store: after a loss, for a new store, or as a scheduler's safety net.

    summary = materialize(store)  # whatever parts the last run has not seen
    summary = materialize(store, full=True)  # every product, written again
    summary = materialize(store, views=["product_text"], since=monday)  # by event time, as Feast's own engine does
    summary = materialize(store, engine=SparkEngine(session))  # on a cluster (`feature_repo.jobs.spark`)

Feast's own engine (`feast materialize`) works on the same store and writes the same values, but it shows no progress,
starts over when it is killed, and builds every value as a Python message. Here:

* Of each product only the newest version is written, and it is read once: the journal finds it by narrow columns.
* Memory is bounded by a shard of rows, not by the history; a column goes from Arrow to the store's bytes at once.
* Each shard is one transaction online and then one checkpoint. Killed at any moment, the next run goes on, and at most
  one shard is written twice, which changes nothing.
* A value that is fresher online stays: the store's own guard compares versions in the statement that writes.
* One run of a view at a time; a run that died holds nothing up.
* In the end every row is read back and compared, by version and checksum.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

import duckdb
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from feast.errors import FeastError
from sqlalchemy.exc import SQLAlchemyError

from feature_repo import definitions
from feature_repo.errors import (
    AlreadyRunningError,
    FeatureRepoError,
    HistoryError,
    InvalidFeatureError,
    StoreStateError,
)
from feature_repo.history.parts import PartGoneError
from feature_repo.jobs.journal import Journal, Plan
from feature_repo.jobs.locks import run_lock
from feature_repo.jobs.shards import KINDS, Engine, InProcess, ShardJob, WrittenShard
from feature_repo.stores.base import GuardedOnlineStore, payload_columns
from feature_repo.times import from_microseconds, to_microseconds
from feature_repo.values import encode_key

SHARD_ROWS: Final = 8192
_REPLANS: Final = 5  # times that compaction may move parts away while one run reads them

Outcome = Literal["done", "differs", "locked", "failed", "dry_run"]


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far the run of one view is."""

    view: str
    done: int
    total: int
    rows_per_s: float
    seconds_left: float


class Reconciliation(msgspec.Struct, frozen=True, kw_only=True):
    """The rows of this run, read back from the online store. `equal + fresher = products` when all is well."""

    products: int
    equal: int  # same version, same bytes
    fresher: int  # newer online than in the history that was read: kept
    missing: int
    older: int
    different: int  # same version, other bytes
    shards: int
    checksum: str  # of the equal rows, both sides
    differing_shards: list[dict[str, Any]]
    online_rows: int | None  # of the whole view, tombstones included; only after a run over the whole history
    unexplained: int | None  # of those, not in the history

    @property
    def ok(self) -> bool:
        return not (self.missing or self.older or self.different or self.unexplained)


class ViewSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one view."""

    view: str
    outcome: Outcome
    message: str = ""
    parts: int = 0
    history_rows: int = 0  # in those parts and in the window
    products: int = 0  # one row of each counts
    resumed: int = 0  # rows that an earlier, killed run had written
    written: int = 0
    kept: int = 0  # already online at this version or a newer one
    seconds: float = 0.0
    rows_per_s: float = 0.0
    reconciliation: Reconciliation | None = None


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What a scheduler reads. `exit_code`: 0 done and equal, 1 differences found, 3 failed, 4 another run is at it."""

    started: datetime
    finished: datetime
    mode: Literal["new", "full", "window"]
    since: datetime | None
    until: datetime | None
    exit_code: int
    views: list[ViewSummary]


def materialize(
    store: Any,
    *,
    views: Sequence[str] = (),
    since: datetime | None = None,
    until: datetime | None = None,
    full: bool = False,
    dry_run: bool = False,
    shard_rows: int = SHARD_ROWS,
    engine: Engine | None = None,
    progress: Callable[[Progress], object] | None = None,
) -> Summary:
    """Bring the history of `views` (all, if none are named) of a `ProductFeatureStore` online.

    Without `since`, `until` and `full`: the parts that the last run into this very online store has not seen; all of
    them, if it is another store or has lost its rows. With a window: rows whose event time lies in it, both ends
    included. `full`: all parts, and rows of an equal version are written again. `engine` works on the shards; without
    one this process does.

    What goes wrong with one view is in its summary, and the others go on.

    Raises:
        InvalidFeatureError: unknown view, a time without a zone, an empty window, or `full` together with a window.
    """
    names = _checked(store, views, since, until, full)
    started = datetime.now(UTC)
    found = []
    for name in names:
        job = _ViewJob(store, name, since, until, full, shard_rows, engine or InProcess(), progress or (lambda _: None))
        try:
            found.append(job.rehearse() if dry_run else job.run())
        except AlreadyRunningError as error:
            found.append(ViewSummary(view=name, outcome="locked", message=str(error)))
        except FeatureRepoError as error:
            found.append(ViewSummary(view=name, outcome="failed", message=str(error)))
    outcomes = {summary.outcome for summary in found}
    code = next((code for outcome, code in (("failed", 3), ("locked", 4), ("differs", 1)) if outcome in outcomes), 0)
    return Summary(
        started=started,
        finished=datetime.now(UTC),
        mode="full" if full else "window" if since or until else "new",
        since=since,
        until=until,
        exit_code=code,
        views=found,
    )


def _checked(
    store: Any, views: Sequence[str], since: datetime | None, until: datetime | None, full: bool
) -> Sequence[str]:
    known: list[str] = store.view_names()
    if unknown := [name for name in views if name not in known]:
        raise InvalidFeatureError(f"Unknown views {unknown}: there are {', '.join(known)}.")
    for name, moment in (("since", since), ("until", until)):
        if moment is not None and moment.utcoffset() is None:
            raise InvalidFeatureError(f"{name} {moment.isoformat()} has no time zone: add one, such as Z for UTC.")
    if since and until and since > until:
        raise InvalidFeatureError(f"since {since.isoformat()} lies after until {until.isoformat()}: swap them.")
    if full and (since or until):
        raise InvalidFeatureError("full reads the whole history: leave out since and until, or full.")
    return list(dict.fromkeys(views)) or known


class _ViewJob:
    """One run over one view."""

    def __init__(
        self,
        store: Any,
        name: str,
        since: datetime | None,
        until: datetime | None,
        full: bool,
        shard_rows: int,
        engine: Engine,
        progress: Callable[[Progress], object],
    ) -> None:
        self._feast = store.feast
        self._config = store.feast.config
        self._online: GuardedOnlineStore = store.feast.provider.online_store
        self._view = definitions.view_named(store.home, name)
        self._history = store.history(name)
        self._folder: Path = store.home / "materialize" / name
        self._since_us = None if since is None else to_microseconds(since)
        self._until_us = None if until is None else to_microseconds(until)
        self._full = full
        self._shard_rows = shard_rows
        self._engine = engine
        self._job = ShardJob(
            self._config, self._view, self._history.schema, equal=full, batch_rows=shard_rows, online=self._online
        )
        self._progress = progress
        self._parts: list[Path] = []
        self._written = self._kept = 0
        self._event_us: list[int] = []  # first and last that were written

    @property
    def _windowed(self) -> bool:
        return self._since_us is not None or self._until_us is not None

    def run(self) -> ViewSummary:
        with run_lock(self._folder / "lock", f"materialising {self._view.name}"):
            started = time.monotonic()
            identity = self._online.identity(self._config, self._view)
            state = _State.read(self._folder / "state.json", identity)
            journal = Journal(self._folder / "journal.duckdb", self._request(identity))
            try:
                resumed = journal.done_rows()
                plan = self._write_all(journal, state, identity)
                seconds = time.monotonic() - started
                whole = not self._windowed and (self._full or not state.parts)
                found = self._reconcile(journal, whole)
            except BaseException:
                journal.close()
                raise
            journal.close(forget=True)
            if found.ok and not self._windowed:
                there = {part.name for part in self._history.parts()}
                state.write(there & {*state.parts, *(part.name for part in self._parts)})
            self._tell_registry()
        return ViewSummary(
            view=self._view.name,
            outcome="done" if found.ok else "differs",
            message="" if found.ok else _difference(self._view.name, found),
            parts=len(self._parts),
            history_rows=plan.history_rows,
            products=plan.products,
            resumed=resumed,
            written=self._written,
            kept=self._kept,
            seconds=round(seconds, 3),
            rows_per_s=round((self._written + self._kept) / max(seconds, 1e-9), 1),
            reconciliation=found,
        )

    def rehearse(self) -> ViewSummary:
        """What `run` would write, by comparing versions; nothing is written, no lock is taken."""
        state = _State.read(self._folder / "state.json", self._online.identity(self._config, self._view))
        journal = Journal(None, "")
        try:
            plan = self._plan(journal, state)
            key = self._job.key
            for number in plan.shards:
                table = self._job.read(journal.shard(number), (key, definitions.VERSION))
                keys = [encode_key(id, key) for id in table[key].to_pylist()]
                (stored,) = self._online.read(self._config, [(self._view, ())], keys)
                for row_key, version in zip(keys, table[definitions.VERSION].to_pylist(), strict=True):
                    there = stored[row_key].version if row_key in stored else -1
                    if there > version or (there == version and not self._full):
                        self._kept += 1
                    else:
                        self._written += 1
        finally:
            journal.close()
        return ViewSummary(
            view=self._view.name,
            outcome="dry_run",
            parts=len(self._parts),
            history_rows=plan.history_rows,
            products=plan.products,
            written=self._written,
            kept=self._kept,
        )

    # Reading the history, writing online.

    def _request(self, identity: str) -> str:
        """What makes two runs the same job, so that the second may go on where the first was killed."""
        columns = payload_columns(self._view)
        return json.dumps([identity, self._full, self._since_us, self._until_us, columns])

    def _write_all(self, journal: Journal, state: _State, identity: str) -> Plan:
        for _ in range(_REPLANS):
            try:
                plan = self._plan(journal, state)
                if plan.remaining:
                    self._engine.check(self._job, self._parts[-1], identity)
                    self._write_winners(journal, plan)
            except PartGoneError:
                continue
            return plan
        raise HistoryError(
            f"The history of {self._view.name} was compacted {_REPLANS} times while it was read: call again; what is "
            "done is not done again."
        )

    def _plan(self, journal: Journal, state: _State) -> Plan:
        listed = self._history.parts()
        if not (self._full or self._windowed):
            seen = set(state.parts)
            listed = [part for part in listed if part.name not in seen]
        self._parts = listed
        if not listed:
            return Plan(0, 0, 0, range(0))
        try:
            return journal.plan(listed, self._job.key, self._since_us, self._until_us, self._shard_rows)
        except duckdb.Error as error:
            self._explain(error)
            raise HistoryError(f"The history of {self._view.name} cannot be read: {error}.") from error

    def _explain(self, error: Exception) -> None:
        """Which part it is: one that is gone, or one that is no whole Parquet file of this view."""
        needed = [self._job.key, "version", "deleted", "event_timestamp", "created_timestamp"]
        for part in self._parts:
            try:
                missing = set(needed).difference(pq.read_schema(part).names)
                if not missing:
                    pq.read_table(part, columns=needed, partitioning=None)
            except FileNotFoundError:
                raise PartGoneError(f"The history was compacted meanwhile ({part} is gone): call again.") from error
            except (pa.ArrowException, OSError) as broken:
                raise HistoryError(f"{part} cannot be read ({broken}). Move it away.") from broken
            if missing:
                raise HistoryError(
                    f"{part} lacks the columns {sorted(missing)}: it is not ours. Move it away."
                ) from error

    def _write_winners(self, journal: Journal, plan: Plan) -> None:
        started, before = time.monotonic(), self._written + self._kept
        for shard in self._engine.map(self._job.write, map(journal.shard, plan.shards)):
            journal.record(shard)
            self._count(shard)
            here = self._written + self._kept - before
            rate = here / max(time.monotonic() - started, 1e-9)
            done = plan.products - plan.remaining + here
            left = (plan.remaining - here) / rate
            self._progress(
                Progress(view=self._view.name, done=done, total=plan.products, rows_per_s=rate, seconds_left=left)
            )

    def _count(self, shard: WrittenShard) -> None:
        self._kept += shard.kept
        self._written += len(shard.checksums) - shard.kept
        self._event_us = [min(*shard.event_us, *self._event_us), max(*shard.event_us, *self._event_us)]

    # Reading back.

    def _reconcile(self, journal: Journal, whole: bool) -> Reconciliation:
        counts = dict.fromkeys(KINDS, 0)
        differing: list[dict[str, Any]] = []
        shards = checksum = 0
        for shard in self._engine.map(self._job.compare, journal.done_shards()):
            shards += 1
            checksum ^= shard.history
            for kind, number in shard.found.items():
                counts[kind] += number
            if shard.history != shard.online or shard.found["missing"] or shard.found["older"]:
                sums = {"history": f"{shard.history:08x}", "online": f"{shard.online:08x}"}
                differing.append({"shard": shard.number, **sums, **shard.found})
        differing.sort(key=lambda found: int(found["shard"]))
        products = sum(counts.values())
        online_rows = unexplained = None
        if whole:
            online_rows = self._online.count(self._config, self._view)
            meanwhile = {part.name for part in self._history.parts()} != {part.name for part in self._parts}
            # Whoever writes beside us adds rows that this run has not seen in the history.
            unexplained = 0 if meanwhile else max(online_rows - products, 0)
        return Reconciliation(
            products=products,
            **counts,
            shards=shards,
            checksum=f"{checksum:08x}",
            differing_shards=differing,
            online_rows=online_rows,
            unexplained=unexplained,
        )

    def _tell_registry(self) -> None:
        """So that `feast feature-views describe` and `feast ui` show it, and `materialize-incremental` goes on here."""
        if self._written and self._event_us:
            first, last = (self._since_us, self._until_us) if self._windowed else (None, None)
            start = self._event_us[0] if first is None else first
            end = self._event_us[1] if last is None else last
            try:
                self._feast.registry.apply_materialization(
                    self._feast.get_feature_view(self._view.name),
                    self._config.project,
                    from_microseconds(start),
                    from_microseconds(end),
                )
            except (FeastError, SQLAlchemyError) as error:
                raise StoreStateError(
                    f"{self._view.name} is online, but Feast's registry could not be told: {error}. Apply the "
                    "definitions (`feast apply`) and call again."
                ) from error


class _State:
    """Which parts the complete runs into one online store have seen."""

    def __init__(self, path: Path, identity: str, parts: list[str]) -> None:
        self.parts = parts
        self._path = path
        self._identity = identity

    @classmethod
    def read(cls, path: Path, identity: str) -> _State:
        try:
            kept = json.loads(path.read_bytes())
            parts = kept["parts"] if kept["online_store"] == identity else []
        except (OSError, ValueError, KeyError, TypeError):  # none yet, or torn: then all is new
            parts = []
        return cls(path, identity, parts)

    def write(self, seen: Iterable[str]) -> None:
        kept = {"online_store": self._identity, "finished": datetime.now(UTC).isoformat(), "parts": sorted(seen)}
        aside = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        aside.write_text(json.dumps(kept))
        aside.replace(self._path)


def _difference(view: str, found: Reconciliation) -> str:
    kinds = ("missing", "older", "different", "unexplained")
    told = ", ".join(f"{getattr(found, kind)} {kind}" for kind in kinds if getattr(found, kind))
    return (
        f"{view} differs from its history online: {told}. Run it with --full; if that does not help, look at the rows."
    )

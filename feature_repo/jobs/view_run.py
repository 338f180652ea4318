"""One run over one view: plan, write the shards that are left, read them back, record what was done.

A run that was killed resumes. Each shard is one transaction online and then one checkpoint in the journal. At most the
shards in flight are written twice, and that changes nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import duckdb
import pyarrow.parquet as pq
from feast.errors import FeastError
from sqlalchemy.exc import SQLAlchemyError

from feature_repo.definitions import CREATED_TIME, DELETED, EVENT_TIME, VERSION
from feature_repo.errors import FeatureRepoError, HistoryError, StoreStateError
from feature_repo.history.parts import PartGoneError, check_columns, readable
from feature_repo.jobs.engine import Engine
from feature_repo.jobs.journal import Journal
from feature_repo.jobs.plan import Plan, Window, make_plan
from feature_repo.jobs.reconciliation import Reconciliation, reconcile
from feature_repo.jobs.request import Request
from feature_repo.jobs.seen_parts import SeenParts
from feature_repo.jobs.shards import Shard, ShardJob, WrittenShard
from feature_repo.jobs.summary import Progress, ViewSummary
from feature_repo.locks import run_lock
from feature_repo.online_row import payload_columns
from feature_repo.store import ProductFeatureStore
from feature_repo.times import from_microseconds
from feature_repo.values import encode_key

_PLANS: Final = 5  # how often a run plans again because compaction has moved parts away


class ViewRun:
    """One run over one view.

    Args:
        store: The feature store.
        name: The full name of the view.
        request: What to do.
        engine: Where shards are worked on.
        progress: Called after every shard.
    """

    def __init__(
        self,
        store: ProductFeatureStore,
        name: str,
        request: Request,
        engine: Engine,
        progress: Callable[[Progress], object],
    ) -> None:
        self._store, self._request, self._engine, self._progress = store, request, engine, progress
        self._config, self._online = store.config, store.online
        self._view, self._history = store.view(name), store.history(name)
        self._folder: Path = store.home / "materialize" / name
        self._job = ShardJob(
            self._config,
            self._view,
            self._history.schema,
            equal=request.full,
            batch_rows=request.shard_rows,
            online=self._online,
        )
        self._parts: list[Path] = []
        self._written = self._kept = 0
        self._event_us: tuple[int, int] | None = None  # first and last event time that was written

    def run(self) -> ViewSummary:
        """Materialize the view.

        Raises:
            AlreadyRunningError: Another run of the view holds its lock.
            FeatureRepoError: The history, the online store, the engine or the registry failed.
        """
        with run_lock(self._folder / "lock", f"materializing {self._view.name}"):
            started = time.monotonic()
            identity = self._online.identity(self._config, self._view)
            seen = SeenParts(self._folder / "state.json", identity)
            journal = Journal(self._folder / "journal.duckdb", self._job_key(identity))
            try:
                resumed = journal.done_rows()
                plan = self._write_all(journal, seen, identity)
                seconds = time.monotonic() - started
                reconciliation = self._reconcile(journal, seen)
            except BaseException:
                journal.close()
                raise
            journal.close(forget=True)
            if reconciliation.ok and not self._request.windowed:
                seen.add(self._parts, self._history.parts())
            self._record_in_registry()
        return ViewSummary(
            view=self._view.name,
            outcome="done" if reconciliation.ok else "differs",
            message=reconciliation.difference(self._view.name),
            parts=len(self._parts),
            history_rows=plan.history_rows,
            products=plan.products,
            resumed=resumed,
            written=self._written,
            kept=self._kept,
            seconds=round(seconds, 3),
            rows_per_s=round((self._written + self._kept) / max(seconds, 1e-9), 1),
            reconciliation=reconciliation,
        )

    def dry_run(self) -> ViewSummary:
        """Return what `run` would write, by comparing versions. It writes nothing and takes no lock.

        Raises:
            FeatureRepoError: The history or the online store cannot be read.
        """
        seen = SeenParts(self._folder / "state.json", self._online.identity(self._config, self._view))
        journal = Journal(None, "")
        try:
            plan = self._plan(journal, seen)
            for number in plan.shards:
                self._compare_versions(plan.shard(number))
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

    def _compare_versions(self, shard: Shard) -> None:
        """Count the rows of a shard that `run` would write, and those that it would keep."""
        key = self._job.key
        table = self._job.read(shard, (key, VERSION))
        keys = [encode_key(id, key) for id in table[key].to_pylist()]
        (stored,) = self._online.read(self._config, [(self._view, ())], keys)
        for row_key, version in zip(keys, table[VERSION].to_pylist(), strict=True):
            online = stored[row_key].version if row_key in stored else -1
            if online > version or (online == version and not self._request.full):
                self._kept += 1
            else:
                self._written += 1

    # Reading the history, writing online.

    def _job_key(self, identity: str) -> str:
        """Return a key that two runs share if the second can resume the first."""
        request = self._request
        return json.dumps([identity, request.full, request.since_us, request.until_us, payload_columns(self._view)])

    def _write_all(self, journal: Journal, seen: SeenParts, identity: str) -> Plan:
        for _ in range(_PLANS):
            try:
                plan = self._plan(journal, seen)
                if plan.remaining:
                    self._check_workers(self._parts[-1], identity)
                    self._write_shards(journal, plan)
            except PartGoneError:
                continue
            return plan
        raise HistoryError(
            f"Compaction changed the history of {self._view.name} {_PLANS} times while it was read: call again; the "
            "next run resumes this one."
        )

    def _plan(self, journal: Journal, seen: SeenParts) -> Plan:
        parts = self._history.parts()
        self._parts = parts if self._request.full or self._request.windowed else seen.unseen(parts)
        window = Window(self._job.key, self._request.since_us, self._request.until_us)
        try:
            return make_plan(journal.database, self._parts, window, self._request.shard_rows)
        except duckdb.Error as error:
            self._raise_for_bad_part(error)
            raise HistoryError(f"The history of {self._view.name} cannot be read: {error}.") from error

    def _raise_for_bad_part(self, error: Exception) -> None:
        """Find the part that DuckDB could not read: its error may not name it.

        Raises:
            PartGoneError: A part is gone.
            HistoryError: A part is not a complete Parquet file of this view.
        """
        needed = [self._job.key, VERSION, DELETED, EVENT_TIME, CREATED_TIME]
        for part in self._parts:
            with readable(part):
                check_columns(part, pq.read_schema(part).names, needed)
                pq.read_table(part, columns=needed, partitioning=None)

    def _check_workers(self, part: Path, identity: str) -> None:
        """Check that all workers see this part of the history, and the online store that this process sees.

        Raises:
            StoreStateError: A worker does not.
        """
        if not self._engine.workers:
            return
        self._engine.check_store(self._config)
        try:
            answers = list(self._engine.map(self._job.inspect, [part] * self._engine.workers))
        except FeatureRepoError as error:
            raise StoreStateError(f"A worker cannot use the online store: {error}") from error
        for sees_part, worker_identity in answers:
            if not sees_part:
                raise StoreStateError(
                    f"A worker does not see {part}: put the state folder where this process and all workers share it, "
                    "under one path."
                )
            if worker_identity != identity:
                raise StoreStateError(
                    "A worker sees another online store than this process: write a host name into online_store.yaml by "
                    "which both reach the same server."
                )

    def _write_shards(self, journal: Journal, plan: Plan) -> None:
        started, before = time.monotonic(), self._written + self._kept
        for shard in self._engine.map(self._job.write, map(plan.shard, plan.shards)):
            journal.record(shard)
            self._count(shard)
            rows = self._written + self._kept - before
            rate = rows / max(time.monotonic() - started, 1e-9)
            self._progress(
                Progress(
                    view=self._view.name,
                    done=plan.products - plan.remaining + rows,
                    total=plan.products,
                    rows_per_s=rate,
                    seconds_left=(plan.remaining - rows) / rate,
                )
            )

    def _count(self, shard: WrittenShard) -> None:
        self._kept += shard.kept
        self._written += len(shard.checksums) - shard.kept
        first, last = self._event_us or shard.event_us
        self._event_us = min(first, shard.event_us[0]), max(last, shard.event_us[1])

    # Reading back.

    def _reconcile(self, journal: Journal, seen: SeenParts) -> Reconciliation:
        shards = self._engine.map(self._job.compare, journal.done_shards())
        if self._request.windowed or not (self._request.full or not seen.names):
            return reconcile(shards)
        # The whole view was written: every online row must be in the history. `shards` is lazy: compare first.
        compared = list(shards)
        online_rows = self._online.count(self._config, self._view)
        history_changed = {part.name for part in self._history.parts()} != {part.name for part in self._parts}
        return reconcile(compared, online_rows, history_changed=history_changed)

    def _record_in_registry(self) -> None:
        """Record the interval: `feast feature-views describe` shows it, `materialize-incremental` continues there."""
        if not self._written or self._event_us is None:
            return
        first, last = self._event_us
        start = first if self._request.since_us is None else self._request.since_us
        end = last if self._request.until_us is None else self._request.until_us
        try:
            self._store.feast.registry.apply_materialization(
                self._store.feast.get_feature_view(self._view.name),
                self._config.project,
                from_microseconds(start),
                from_microseconds(end),
            )
        except (FeastError, SQLAlchemyError) as error:
            raise StoreStateError(
                f"{self._view.name} is online, but Feast's registry could not record it: {error}. Apply the "
                "definitions (`feast apply`) and call again."
            ) from error

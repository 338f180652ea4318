"""Bring the history into the online store: after a loss, for a new store, or regularly as a safety net.

    summary = materialize(store)  # the parts that no earlier run has written
    summary = materialize(store, full=True)  # every product, written again
    summary = materialize(store, views=["product_text"], since=monday)  # by event time, like Feast's own engine
    summary = materialize(store, engine=SparkEngine(session))  # on a cluster (`feature_repo.jobs.spark`)

Feast's own engine (`feast materialize`) works on the same store and writes the same values, but it shows no progress,
starts over when it is killed, and builds every value as a Python message. This job differs:

* It writes only the newest version of each product and reads it once: the journal finds it by narrow columns.
* Memory is bounded by a shard of rows, not by the history. Columns go from Arrow to the store's bytes directly.
* Each shard is one transaction online and then one checkpoint. A run that was killed resumes, and writes at most the
  shards in flight twice, which changes nothing.
* A fresher value online stays: the statement that writes compares the versions.
* One run of a view works at a time. The death of a run frees its lock.
* In the end the job reads every row back and compares it by version and checksum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from feature_repo.errors import AlreadyRunningError, FeatureRepoError
from feature_repo.jobs.engine import Engine, InProcess
from feature_repo.jobs.request import SHARD_ROWS, Request
from feature_repo.jobs.summary import Progress, Summary, ViewSummary, exit_code
from feature_repo.jobs.view_run import ViewRun
from feature_repo.store import ProductFeatureStore

__all__ = ["SHARD_ROWS", "Progress", "Summary", "ViewSummary", "materialize"]


def materialize(
    store: ProductFeatureStore,
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
    """Bring the history of views into the online store.

    Without `since`, `until` and `full`, this writes the parts that no complete run has written into this online store;
    all of them, if it is another store or has lost its rows. An error of one view is in its summary, and the other
    views go on.

    Args:
        store: The feature store.
        views: The full names of the views; none stands for all views.
        since: The first event time; None for no limit.
        until: The last event time, inclusive; None for no limit.
        full: Whether to read the whole history and write rows of an equal version again.
        dry_run: Whether to count what would be written, and write nothing.
        shard_rows: The number of rows of a shard.
        engine: Where shards are worked on; None for this process.
        progress: Called after every shard.

    Raises:
        InvalidFeatureError: A view is unknown, a time has no zone, the window is empty, or `full` has a window.
    """
    request = Request(views=views, since=since, until=until, full=full, shard_rows=shard_rows)
    view_names = store.view_names()
    request.check(view_names)
    started = datetime.now(UTC)
    summaries = []
    for name in dict.fromkeys(views or view_names):
        run = ViewRun(store, name, request, engine or InProcess(), progress or (lambda _: None))
        summaries.append(_summary(name, run.dry_run if dry_run else run.run))
    return Summary(
        started=started,
        finished=datetime.now(UTC),
        mode=request.mode,
        since=since,
        until=until,
        exit_code=exit_code(summaries),
        views=summaries,
    )


def _summary(view: str, run: Callable[[], ViewSummary]) -> ViewSummary:
    try:
        return run()
    except AlreadyRunningError as error:
        return ViewSummary(view=view, outcome="locked", message=str(error))
    except FeatureRepoError as error:
        return ViewSummary(view=view, outcome="failed", message=str(error))

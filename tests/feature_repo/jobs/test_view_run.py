"""One run over one view: it plans, writes its shards, reads them back, and reports its progress."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from feature_repo.errors import HistoryError, StoreStateError
from feature_repo.jobs.engine import InProcess
from feature_repo.jobs.request import Request
from feature_repo.jobs.summary import Progress
from feature_repo.jobs.view_run import ViewRun
from feature_repo.locks import AlreadyRunningError, run_lock
from feature_repo.store import ProductFeatureStore
from tests.feature_repo.builders import make_product
from tests.feature_repo.jobs.builders import OFFERS, offers, online_versions


class TwoWorkers(InProcess):
    """An engine that claims to have workers; `inspect` has the answers of its choice."""

    workers = 2

    def __init__(self, *answers: tuple[bool, str]) -> None:
        self._answers = answers

    def map(self, work: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Any]:
        return iter(self._answers) if getattr(work, "__name__", "") == "inspect" else map(work, tasks)


class CompactingEngine(InProcess):
    """An engine under which every shard's part is gone, as when compaction never rests."""

    def map(self, work: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Any]:
        def with_lost_parts() -> Iterator[Any]:
            for shard in tasks:
                yield shard._replace(pieces=[(part.with_name("gone.parquet"), rows) for part, rows in shard.pieces])

        return map(work, with_lost_parts())


def view_run(store: ProductFeatureStore, engine: Any = None, progress: Any = lambda _: None, **options: Any) -> ViewRun:
    return ViewRun(store, OFFERS, Request(**options), engine or InProcess(), progress)


def test_progress_comes_after_every_shard_and_ends_with_all_rows(store: ProductFeatureStore) -> None:
    offers(store, {f"p{n}": 1 for n in range(5)})
    progress: list[Progress] = []
    summary = view_run(store, progress=progress.append, shard_rows=2).run()
    assert [(step.done, step.total) for step in progress] == [(2, 5), (4, 5), (5, 5)]
    assert progress[-1].seconds_left == 0
    assert (summary.outcome, summary.products, summary.written) == ("done", 5, 5)


def test_a_run_without_new_parts_writes_nothing(store: ProductFeatureStore) -> None:
    offers(store, {"a": 1})
    view_run(store).run()
    summary = view_run(store).run()
    assert (summary.outcome, summary.parts, summary.written, summary.kept) == ("done", 0, 0, 0)


def test_a_dry_run_counts_as_the_run_does_and_writes_nothing(store: ProductFeatureStore) -> None:
    store.write_features([make_product("old", 1), make_product("new", 9)])
    offers(store, {"old": 3, "new": 3, "unknown": 1})
    dry = view_run(store).dry_run()
    assert (dry.outcome, dry.written, dry.kept) == ("dry_run", 2, 1)
    assert online_versions(store, ["old", "new", "unknown"]) == {"old": 1, "new": 9}
    real = view_run(store).run()
    assert (real.products, real.written, real.kept) == (dry.products, dry.written, dry.kept)


def test_a_dry_run_needs_no_lock_and_a_run_does(store: ProductFeatureStore) -> None:
    offers(store, {"a": 1})
    folder: Path = store.home / "materialize" / OFFERS
    with run_lock(folder / "lock", "another run"):
        assert view_run(store).dry_run().written == 1
        with pytest.raises(AlreadyRunningError):
            view_run(store).run()


@pytest.mark.parametrize(
    ("sees_part", "same_store", "message"),
    [(False, True, "A worker does not see"), (True, False, "A worker sees another online store")],
)
def test_workers_that_see_another_history_or_store_stop_the_run_before_it_writes(
    store: ProductFeatureStore, sees_part: bool, same_store: bool, message: str
) -> None:
    offers(store, {"a": 1})
    identity = store.online.identity(store.config, store.view(OFFERS))
    engine = TwoWorkers((True, identity), (sees_part, identity if same_store else "another"))
    with pytest.raises(StoreStateError, match=message):
        view_run(store, engine).run()
    assert online_versions(store, "a") == {}


def test_workers_that_see_the_same_history_and_store_write(store: ProductFeatureStore) -> None:
    offers(store, {"a": 1})
    identity = store.online.identity(store.config, store.view(OFFERS))
    assert view_run(store, TwoWorkers((True, identity), (True, identity))).run().written == 1


def test_a_history_that_changes_at_every_try_ends_the_run_with_its_remedy(store: ProductFeatureStore) -> None:
    offers(store, {"a": 1})
    with pytest.raises(HistoryError, match=r"changed the history of product_offer 5 times .* the next run resumes"):
        view_run(store, CompactingEngine()).run()
    assert view_run(store).run().written == 1

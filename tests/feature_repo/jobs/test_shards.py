"""A shard is written under the guard of the store, and read back row by row."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from feature_repo.errors import HistoryError
from feature_repo.jobs.shards import DoneShard, Shard, ShardJob, WrittenShard
from feature_repo.store import ProductFeatureStore
from tests.feature_repo.builders import event_time, make_product
from tests.feature_repo.jobs.builders import OFFERS, offers, online_versions

Job = Callable[..., ShardJob]


@pytest.fixture
def job(store: ProductFeatureStore) -> Job:
    def of(*, equal: bool = False) -> ShardJob:
        schema = store.history(OFFERS).schema
        return ShardJob(store.config, store.view(OFFERS), schema, equal=equal, batch_rows=64, online=store.online)

    return of


def whole_part(store: ProductFeatureStore, rows: int) -> Shard:
    """A shard of all rows of the newest part."""
    return Shard(7, [(store.history(OFFERS).parts()[-1], np.arange(rows))])


def done(written: WrittenShard) -> DoneShard:
    return DoneShard(written.number, written.ids.to_pylist(), written.versions.to_pylist(), written.checksums)


def test_the_rows_of_a_shard_are_online_with_their_versions_and_event_times(
    store: ProductFeatureStore, job: Job
) -> None:
    offers(store, {"a": 1, "b": 2})
    written = job().write(whole_part(store, 2))
    assert online_versions(store, "ab") == {"a": 1, "b": 2}
    assert (written.number, written.kept, written.ids.to_pylist()) == (7, 0, ["a", "b"])
    assert written.event_us[1] - written.event_us[0] == (event_time(2) - event_time(1)).microseconds


def test_newer_and_equal_rows_are_kept_and_equal_rows_are_written_again_on_request(
    store: ProductFeatureStore, job: Job
) -> None:
    store.write_features([make_product("a", 1), make_product("b", 5)])
    offers(store, {"a": 1, "b": 2})
    assert job().write(whole_part(store, 2)).kept == 2
    assert job(equal=True).write(whole_part(store, 2)).kept == 1
    assert online_versions(store, "ab") == {"a": 1, "b": 5}


def test_a_written_shard_is_equal_when_it_is_read_back(store: ProductFeatureStore, job: Job) -> None:
    offers(store, {"a": 1, "b": 2})
    compared = job().compare(done(job().write(whole_part(store, 2))))
    assert compared.counts["equal"] == 2
    assert compared.history == compared.online


def test_rows_that_were_lost_or_overwritten_are_told_apart(store: ProductFeatureStore, job: Job) -> None:
    offers(store, {"a": 1, "b": 2})
    written = done(job().write(whole_part(store, 2)))
    store.write_features([make_product("b", 3)])
    expected = DoneShard(7, [*written.ids, "lost"], [*written.versions, 1], [*written.checksums, 99])
    compared = job().compare(expected)
    assert {state: rows for state, rows in compared.counts.items() if rows} == {"equal": 1, "fresher": 1, "missing": 1}
    assert compared.history ^ compared.online == 99, "only the lost row differs"
    changed = DoneShard(7, ["a"], [1], [written.checksums[0] + 1])
    assert job().compare(changed).counts["different"] == 1
    assert job().compare(DoneShard(7, ["a"], [2], [0])).counts["older"] == 1


def test_a_pickled_job_opens_its_own_store_and_does_the_same(store: ProductFeatureStore, job: Job) -> None:
    offers(store, {"a": 1})
    copy = pickle.loads(pickle.dumps(job()))
    part = store.history(OFFERS).parts()[-1]
    assert copy.inspect(part) == job().inspect(part)
    assert copy.inspect(part.with_name("none.parquet"))[0] is False
    copy.write(whole_part(store, 1))
    assert online_versions(store, "a") == {"a": 1}


def test_a_part_that_cannot_be_read_is_named_and_nothing_is_written(
    store: ProductFeatureStore, job: Job, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged.parquet"
    damaged.write_bytes(b"PAR1 not a part")
    with pytest.raises(HistoryError, match=r"damaged\.parquet cannot be read"):
        job().write(Shard(0, [(damaged, np.arange(1))]))
    assert store.online.count(store.config, store.view(OFFERS)) == 0

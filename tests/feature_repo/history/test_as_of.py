"""Rows of a view as of a time: both clocks count; neither the order of arrival nor compaction changes the result."""

from __future__ import annotations

import fcntl
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from feature_repo.definitions import IMAGES_VIEW, TEXT_VIEW
from feature_repo.errors import HistoryError, InvalidFeatureError
from feature_repo.history.as_of import matrices
from feature_repo.history.compaction import compact
from feature_repo.rows import Deletion
from tests.feature_repo.builders import NOON, make_product

HOUR = timedelta(hours=1)


def titles(store: Any, at: datetime) -> dict[str, str]:
    tables = store.rows_as_of(TEXT_VIEW, at, ["product_id", "title"])
    rows = [tuple(row.values()) for table in tables for row in table.to_pylist()]
    assert len(dict(rows)) == len(rows), "a product twice"
    return dict(rows)


def title(id: str, version: int) -> str:
    return f"title of {id} at {version}"


def test_a_product_is_as_it_was_then_and_a_deleted_one_is_gone(store: Any) -> None:
    moments = [datetime.now(UTC)]
    for version in (1, 2):
        store.write_features([make_product(id, version) for id in ("a", "b")])
        moments.append(datetime.now(UTC))
    store.delete([Deletion(id="b", version=3, event_time=NOON + HOUR)])
    moments.append(datetime.now(UTC))
    store.write_features([make_product("b", 4, event_time=NOON + 2 * HOUR)])
    moments.append(datetime.now(UTC))
    assert [titles(store, at) for at in moments] == [
        {},
        {"a": title("a", 1), "b": title("b", 1)},
        {"a": title("a", 2), "b": title("b", 2)},
        {"a": title("a", 2)},
        {"a": title("a", 2), "b": title("b", 4)},
    ]


def test_a_snapshot_includes_events_at_its_time_and_none_after_it(store: Any) -> None:
    soon = datetime.now(UTC) + HOUR
    store.write_features([make_product("a", 1)])
    store.write_features([make_product("a", 2, event_time=soon)])
    microsecond = timedelta(microseconds=1)
    assert titles(store, soon - microsecond) == {"a": title("a", 1)}
    assert titles(store, soon) == {"a": title("a", 2)}


def test_rows_that_arrived_later_are_left_out_even_if_their_events_are_older(store: Any) -> None:
    store.write_features([make_product("a", 1)])
    then = datetime.now(UTC)
    store.write_features([make_product("a", 2, event_time=NOON - HOUR), make_product("b", 1, event_time=NOON - HOUR)])
    assert titles(store, then) == {"a": title("a", 1)}
    assert titles(store, datetime.now(UTC)) == {"a": title("a", 2), "b": title("b", 1)}


def test_the_newest_version_counts_not_the_last_to_arrive(store: Any) -> None:
    store.write_features([make_product("a", 7)])
    store.write_features([make_product("a", 7, text=make_product("a", 8).text)])  # corrected under its version
    store.write_features([make_product("a", 3, event_time=NOON + HOUR)])
    assert titles(store, datetime.now(UTC)) == {"a": title("a", 8)}


def test_a_view_that_was_not_written_is_as_it_was_before(store: Any) -> None:
    store.write_features([make_product("a", 1)])
    store.write_features([make_product("a", 2)], views=["offer"])
    assert titles(store, datetime.now(UTC)) == {"a": title("a", 1)}


def test_each_product_appears_once_across_batches_before_and_after_compaction(store: Any) -> None:
    for version, ids in enumerate((range(50), range(10, 30), range(20, 60)), 1):
        store.write_features([make_product(f"p{id}", version, images=id % 3) for id in ids])
    at = datetime.now(UTC)
    last = {f"p{id}": 3 if id >= 20 else 2 if id >= 10 else 1 for id in range(60)}
    for _ in range(2):
        assert titles(store, at) == {id: title(id, version) for id, version in last.items()}
        seen = 0
        for table in store.rows_as_of(IMAGES_VIEW, at, ["product_id", "vectors"], batch=8):
            assert table.num_rows <= 8
            for id, images in zip(table["product_id"].to_pylist(), matrices(table["vectors"]), strict=True):
                expected = make_product(id, last[id], images=int(id[1:]) % 3).image_vectors
                assert images.dtype == np.float32
                assert np.array_equal(images, expected)
                seen += 1
        assert seen == 60
        compact(store.history(TEXT_VIEW), grace_s=0)
        compact(store.history(IMAGES_VIEW), grace_s=0)
    assert len(store.history(TEXT_VIEW).parts()) == 1


def test_a_feature_that_the_view_got_later_is_null_in_older_rows(store: Any) -> None:
    store.write_features([make_product("a", 1)])
    past = store.history(TEXT_VIEW)
    (whole,) = (part for part in past.parts() if pq.read_metadata(part).num_rows)
    pq.write_table(pq.read_table(whole).drop_columns("title"), whole)
    assert titles(store, datetime.now(UTC)) == {"a": None}


def test_compaction_waits_until_all_is_read(store: Any) -> None:
    store.write_features([make_product("a", 1)])
    with open(store.home / "compact.lock", "w") as lock:
        rows = store.rows_as_of(TEXT_VIEW, datetime.now(UTC), ["product_id"])
        next(rows)
        with pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert list(rows) == []
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_time_without_a_zone_is_refused(store: Any) -> None:
    with pytest.raises(InvalidFeatureError, match="2026-03-01T12:00:00 has no time zone"):
        next(store.rows_as_of(TEXT_VIEW, datetime(2026, 3, 1, 12), ["product_id"]))


def test_a_broken_part_is_named(store: Any) -> None:
    store.write_features([make_product("a", 1)])
    (store.history(TEXT_VIEW).folder / "part-broken.parquet").write_bytes(b"not parquet")
    with pytest.raises(HistoryError, match=r"part-broken\.parquet"):
        titles(store, datetime.now(UTC))

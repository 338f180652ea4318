"""An index with its upkeep: saved, loaded, compacted, and its recall monitored."""

from __future__ import annotations

import logging
import re
import threading
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from inference.arrays import Float32Array
from inference.recommend import Recommender
from inference.retrieval import MonitorSettings, RetrievalIndex
from streaming.vectors.followed_index import FollowedIndex, Upkeep, load_index
from tests.streaming.builders import vector_of
from tests.streaming.vectors.builders import vector_message, vector_record
from tests.streaming.vectors.fakes import P0, FakeBroker
from tests.waiting import wait_until


def followed(
    broker: FakeBroker, folder: Path | None = None, *, upkeep: Upkeep | None = None, **rest: Any
) -> FollowedIndex:
    """An index whose upkeep checks a hundred times a second."""
    often = msgspec.structs.replace(upkeep or Upkeep(), check_every_s=0.01)
    return FollowedIndex(broker, "1", folder=folder, upkeep=often, **rest)  # type: ignore[arg-type]


def shop(products: int = 5) -> FakeBroker:
    return FakeBroker([vector_record(f"p{n}", 1, vector_message(f"p{n}", 1)) for n in range(products)])


def test_a_restart_reads_only_new_records(tmp_path: Path) -> None:
    broker = shop()
    with followed(broker, tmp_path / "1") as first:
        assert first.catch_up(10)
        assert first.healthy
    broker.read.clear()
    broker.logs[P0].append(vector_record("p0", 2, None))
    second = followed(broker, tmp_path / "1")
    assert len(second.index) == 5, "answers from the file"
    with second:
        assert second.catch_up(10)
        assert broker.read == [(P0.topic, 5)]
        assert "p0" not in second.index
    assert not second.healthy


def test_after_a_kill_the_index_resumes_from_the_last_save(tmp_path: Path) -> None:
    broker = shop()
    with followed(broker, tmp_path, upkeep=Upkeep(save_every_s=0.0)) as running:
        assert running.catch_up(10)
        wait_until(lambda: (tmp_path / "manifest.json").exists(), "the first save, once everything is read")
        assert len(load_index(tmp_path, "1")) == 5
        broker.logs[P0].append(vector_record("late", 1, vector_message("late", 1)))
        wait_until(lambda: "late" in load_index(tmp_path, "1"), "a save of what came later")


def test_a_saved_index_that_cannot_be_used_is_logged_and_overwritten(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    RetrievalIndex("0").save(tmp_path)
    with followed(shop(), tmp_path) as running:
        assert running.catch_up(10)
    assert "is of model version '0'" in caplog.text
    assert len(RetrievalIndex.load(tmp_path, "1")) == 5


def test_a_follower_that_never_caught_up_saves_nothing(tmp_path: Path) -> None:
    with followed(FakeBroker(failures={0: [ZeroDivisionError()]}), tmp_path / "x") as running:
        assert not running.catch_up(10)
        assert not running.healthy
    assert not (tmp_path / "x").exists()


def test_a_failed_save_is_logged_and_the_index_keeps_following(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broker = shop()
    (tmp_path / "1").write_text("in the way")
    running = followed(broker, tmp_path / "1").start()
    try:
        assert running.catch_up(10)
        wait_until(lambda: "the upkeep of the index of model version 1 failed" in caplog.text, "a line in the log")
        broker.logs[P0].append(vector_record("late", 1, vector_message("late", 1)))
        assert running.catch_up(10)
        assert "late" in running.index
    finally:
        (tmp_path / "1").unlink()
        running.close()


def test_a_worn_graph_is_rebuilt_and_removed_products_are_forgotten(caplog: pytest.LogCaptureFixture) -> None:
    def forgotten() -> int:
        return sum(int(count) for count in re.findall(r"forgot (\d+) removed products", caplog.text))

    caplog.set_level(logging.INFO)
    broker = shop(30)
    with followed(broker, upkeep=Upkeep(compact_at_wear=0.5, removed_kept=3)) as running:
        running.index.settings = type(running.index.settings)(exact_up_to=0)
        assert running.catch_up(10)
        broker.logs[P0] += [vector_record(f"p{n}", 2, None) for n in range(12)]
        assert running.catch_up(10)
        wait_until(lambda: "rebuilt the graph" in caplog.text and running.index.wear <= 0.5, "the graph to be rebuilt")
        wait_until(lambda: forgotten() == 12 - 4, "all removed products but a quarter of the live ones to be forgotten")
        assert len(running.index) == 18
        assert running.index.search(vector_of("p20", 1)[None], 1)[0].ids == ["p20"]


def test_live_queries_are_compared_with_exact_search_in_the_background() -> None:
    broker = shop(40)
    with followed(broker, monitor=MonitorSettings(share=1.0, busy=1.0, waiting=100)) as running:
        assert running.catch_up(10)
        assert running.recall().recall is None
        recommender = Recommender(running.index, lambda texts: none(), {}, observe=running.monitor.observe)
        recommender.for_user([["p1", "p2"], ["p3"]], k=5)
        wait_until(lambda: running.recall().checked > 0, "a query to be judged")
        assert running.recall().recall == 1.0
    assert not [t for t in threading.enumerate() if t.name in ("recall-monitor", "index-upkeep", "index-follower")]


def none() -> Float32Array:
    return np.zeros((0, 256), np.float32)

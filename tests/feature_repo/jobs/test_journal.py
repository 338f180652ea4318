from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from feature_repo.history.writer import History
from feature_repo.jobs.journal import Journal, Plan
from feature_repo.jobs.shards import DoneShard, WrittenShard
from tests.feature_repo.history.builders import SCHEMA, rows


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path / "view", SCHEMA)


def plan(journal: Journal, history: History, shard_rows: int = 2) -> Plan:
    return journal.plan(history.parts(), "product_id", None, None, shard_rows)


def written(number: int, versions: dict[str, int], created: int = 0) -> WrittenShard:
    created_us = (1_700_000_000 + created) * 1_000_000 + 123_457
    return WrittenShard(
        number=number,
        ids=pa.array(list(versions)),
        versions=pa.array(list(versions.values()), pa.int64()),
        created_us=pa.array([created_us] * len(versions), pa.int64()),
        checksums=[7] * len(versions),
        kept=0,
        event_us=(0, 0),
    )


def test_a_plan_counts_rows_products_and_shards(history: History) -> None:
    history.append(rows(("a", 1, "x"), ("b", 1, "x"), ("c", 1, "x")))
    history.append(rows(("a", 2, "x")))
    assert plan(Journal(None, ""), history) == Plan(history_rows=4, products=3, remaining=3, shards=range(2))


def test_a_reopened_journal_leaves_out_what_is_done_and_numbers_on(history: History, tmp_path: Path) -> None:
    history.append(rows(("a", 1, "x"), ("b", 1, "x"), ("c", 1, "x")))
    journal = Journal(tmp_path / "journal", "request")
    plan(journal, history)
    journal.record(written(0, {"a": 1, "b": 1}))
    journal.close()
    resumed = Journal(tmp_path / "journal", "request")
    assert resumed.done_rows() == 2
    assert plan(resumed, history) == Plan(history_rows=3, products=3, remaining=1, shards=range(1, 2))
    ((part, numbers),) = resumed.shard(1).pieces
    assert (part, numbers.tolist()) == (history.parts()[0], [2])


def test_a_newer_version_of_a_done_product_is_planned_again(history: History) -> None:
    history.append(rows(("a", 1, "x")))
    journal = Journal(None, "")
    journal.record(written(0, {"a": 1}))
    assert plan(journal, history).remaining == 0
    history.append(rows(("a", 2, "x")))
    assert plan(journal, history).remaining == 1


def test_a_product_that_was_done_twice_is_compared_once_by_its_newest_version() -> None:
    journal = Journal(None, "")
    journal.record(written(0, {"a": 1, "b": 1}))
    journal.record(written(1, {"a": 2}))
    assert list(journal.done_shards()) == [DoneShard(0, ["b"], [1], [7]), DoneShard(1, ["a"], [2], [7])]


def test_another_request_forgets_what_was_done(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal", "request")
    journal.record(written(0, {"a": 1}))
    journal.close()
    other = Journal(tmp_path / "journal", "another request")
    assert other.done_rows() == 0


def test_a_finished_journal_leaves_no_file(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "folder" / "journal", "request")
    journal.close(forget=True)
    assert list((tmp_path / "folder").iterdir()) == []

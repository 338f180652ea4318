from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from feature_repo.history.writer import History
from feature_repo.jobs.journal import Journal
from feature_repo.jobs.plan import Plan, Window, make_plan
from tests.feature_repo.history.builders import SCHEMA, rows
from tests.feature_repo.jobs.builders import written

WHOLE = Window("product_id")


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path / "view", SCHEMA)


def plan(journal: Journal, history: History, window: Window = WHOLE) -> Plan:
    return make_plan(journal.database, history.parts(), window, shard_rows=2)


def figures(plan: Plan) -> dict[str, object]:
    return {name: getattr(plan, name) for name in ("history_rows", "products", "remaining", "shards")}


def test_a_plan_counts_rows_products_and_shards(history: History) -> None:
    history.append(rows(("a", 1, "x"), ("b", 1, "x"), ("c", 1, "x")))
    history.append(rows(("a", 2, "x")))
    result = figures(plan(Journal(None, ""), history))
    assert result == {"history_rows": 4, "products": 3, "remaining": 3, "shards": range(2)}


def test_a_history_without_parts_leaves_nothing_to_write(history: History) -> None:
    result = figures(plan(Journal(None, ""), history))
    assert result == {"history_rows": 0, "products": 0, "remaining": 0, "shards": range(0)}


def test_a_reopened_journal_leaves_out_done_rows_and_continues_the_numbers(history: History, tmp_path: Path) -> None:
    history.append(rows(("a", 1, "x"), ("b", 1, "x"), ("c", 1, "x")))
    journal = Journal(tmp_path / "journal", "request")
    plan(journal, history)
    journal.record(written(0, {"a": 1, "b": 1}))
    journal.close()
    resumed = Journal(tmp_path / "journal", "request")
    assert resumed.done_rows() == 2
    left = plan(resumed, history)
    assert figures(left) == {"history_rows": 3, "products": 3, "remaining": 1, "shards": range(1, 2)}
    ((part, numbers),) = left.shard(1).pieces
    assert (part, numbers.tolist()) == (history.parts()[0], [2])


def test_a_newer_version_of_a_done_product_is_planned_again(history: History) -> None:
    history.append(rows(("a", 1, "x")))
    journal = Journal(None, "")
    journal.record(written(0, {"a": 1}))
    assert plan(journal, history).remaining == 0
    history.append(rows(("a", 2, "x")))
    assert plan(journal, history).remaining == 1


def test_rows_outside_the_window_do_not_count(history: History) -> None:
    history.append(rows(("a", 1, "x"), ("b", 1, "x")))
    far = int(datetime(2100, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000
    assert plan(Journal(None, ""), history, Window("product_id", until_us=far)).history_rows == 2
    assert plan(Journal(None, ""), history, Window("product_id", since_us=far)).history_rows == 0

from __future__ import annotations

from pathlib import Path

from feature_repo.jobs.journal import Journal
from feature_repo.jobs.shards import DoneShard
from tests.feature_repo.jobs.builders import written


def test_a_product_that_was_done_twice_is_compared_once_by_its_newest_version() -> None:
    journal = Journal(None, "")
    journal.record(written(0, {"a": 1, "b": 1}))
    journal.record(written(1, {"a": 2}))
    assert list(journal.done_shards()) == [DoneShard(0, ["b"], [1], [7]), DoneShard(1, ["a"], [2], [7])]


def test_another_request_discards_the_journal(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal", "request")
    journal.record(written(0, {"a": 1}))
    journal.close()
    other = Journal(tmp_path / "journal", "another request")
    assert other.done_rows() == 0


def test_a_finished_journal_leaves_no_file(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "folder" / "journal", "request")
    journal.close(forget=True)
    assert list((tmp_path / "folder").iterdir()) == []

"""The records of the consumers on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sagelift.stack.worker_records import WorkerRecord, announced, folder_of, read_record, read_records, write_record


def dead(name: str, pid: int, **fields: object) -> WorkerRecord:
    return WorkerRecord(name=name, pid=pid, started_at=1.0, url="http://127.0.0.1:1", **fields)  # type: ignore[arg-type]


def test_a_consumer_has_a_record_only_while_it_runs(tmp_path: Path) -> None:
    with announced(tmp_path, "catalog", "http://127.0.0.1:9", time.time()) as record:
        assert read_records(tmp_path) == [record]
        assert record.running
        assert read_record(folder_of(tmp_path), "catalog", os.getpid()) == record
    assert read_records(tmp_path) == []


def test_a_consumer_that_ended_with_an_error_leaves_its_record(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="x"), announced(tmp_path, "catalog", "http://127.0.0.1:9", time.time()):
        raise ValueError("x")
    assert [r.name for r in read_records(tmp_path)] == ["catalog"]


def test_a_new_consumer_removes_only_the_records_of_dead_ones_of_its_name(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        alive = WorkerRecord(name="catalog", pid=other.pid, started_at=time.time(), url="http://127.0.0.1:2")
        for record in (dead("catalog", 1), dead("events", 1), alive):
            write_record(folder, record)
        with announced(tmp_path, "catalog", "http://127.0.0.1:9", time.time()) as mine:
            assert read_records(tmp_path) == [alive, mine, dead("events", 1)]


def test_another_process_with_the_recorded_pid_is_not_the_consumer(tmp_path: Path) -> None:
    assert not WorkerRecord(name="catalog", pid=os.getpid(), started_at=1.0, url="").running


def test_an_unreadable_record_is_ignored(tmp_path: Path) -> None:
    folder_of(tmp_path).mkdir()
    (folder_of(tmp_path) / "catalog-1.json").write_text("{")
    assert read_records(tmp_path) == []
    assert read_records(tmp_path / "nowhere") == []

"""What a worker process tells the stack while it runs and after it ended."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sagelift.stack.worker import Worker, WorkerSpec
from sagelift.stack.worker_records import WorkerRecord, write_record
from tests.waiting import wait_until


@pytest.mark.parametrize("name", ["", "a b", "../up", "a/b"])
def test_a_name_that_cannot_name_a_log_file_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="worker name"):
        WorkerSpec(name, ["true"])


def test_a_worker_without_a_command_is_refused() -> None:
    with pytest.raises(ValueError, match="'sink' has no command"):
        WorkerSpec("sink", [])


def test_the_environment_of_a_worker_is_not_printed() -> None:
    """It may hold passwords."""
    assert "hunter2" not in repr(WorkerSpec("catalog", ["true"], {"SAGELIFT_KAFKA__PASSWORD": "hunter2"}))


@contextmanager
def ended(tmp_path: Path, script: str) -> Iterator[Worker]:
    with Worker(WorkerSpec("catalog", [sys.executable, "-c", script], final=(4,)), tmp_path) as worker:
        wait_until(lambda: not worker.alive, "the worker does not end")
        yield worker


def test_a_final_exit_code_comes_with_the_last_line_of_the_log(tmp_path: Path) -> None:
    with ended(tmp_path, "print('sagelift: too much poison'); raise SystemExit(4)") as worker:
        assert worker.fatal_reason == "sagelift: too much poison"


def test_the_record_of_the_worker_takes_precedence_over_its_log(tmp_path: Path) -> None:
    record = '{"name":"catalog","pid":%d,"started_at":1,"url":"http://127.0.0.1:9","ended":["poisoned","garbage"]}'
    tells = f"os.chdir({str(tmp_path)!r}); open(f'catalog-{{os.getpid()}}.json', 'w').write({record!r} % os.getpid())"
    with ended(tmp_path, f"import os; {tells}; print('leaks'); raise SystemExit(4)") as worker:
        assert worker.fatal_reason == "poisoned: garbage"
        assert worker.address is None, "nobody answers there any more"


def test_after_any_other_exit_code_a_restart_may_help(tmp_path: Path) -> None:
    with ended(tmp_path, "raise SystemExit(3)") as worker:
        assert worker.fatal_reason is None


def test_the_address_comes_from_the_workers_record(tmp_path: Path) -> None:
    worker = Worker(WorkerSpec("catalog", [sys.executable, "-c", "input()"]), tmp_path)
    assert worker.address is None
    with worker:
        assert worker.pid is not None
        assert worker.address is None
        write_record(tmp_path, WorkerRecord(name="catalog", pid=worker.pid, started_at=1.0, url="http://127.0.0.1:9"))
        assert worker.address == "127.0.0.1:9"

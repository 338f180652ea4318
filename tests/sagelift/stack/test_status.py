"""What a supervisor writes for other processes, and the lock that shows whether it is alive."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sagelift.stack import status
from sagelift.stack.errors import AlreadyRunningError
from sagelift.stack.status import ComponentStatus, StackStatus, SupervisorLock

WRITTEN = StackStatus(
    running=True,
    pid=os.getpid(),
    written_at=1.0,
    kafka_bootstrap="127.0.0.1:1",
    components=(ComponentStatus("Kafka", "ready", "127.0.0.1:1", pid=2, restarts=1, last_error="x", log="y"),),
)


def test_what_is_written_is_read_while_its_supervisor_lives(tmp_path: Path) -> None:
    lock = SupervisorLock(tmp_path)
    lock.acquire()
    status.write_status(tmp_path, WRITTEN)
    assert status.read_status(tmp_path) == WRITTEN
    assert status.read_status(tmp_path).healthy
    assert [p.name for p in tmp_path.glob(".*")] == []
    lock.release()


def test_the_record_of_a_dead_supervisor_is_stale(tmp_path: Path) -> None:
    status.write_status(tmp_path, WRITTEN)
    seen = status.read_status(tmp_path)
    assert (seen.running, seen.stale, seen.healthy) == (False, True, False)
    assert seen.components == WRITTEN.components


def test_the_next_supervisor_does_not_inherit_the_record_of_a_dead_one(tmp_path: Path) -> None:
    status.write_status(tmp_path, StackStatus(pid=1, components=WRITTEN.components))
    lock = SupervisorLock(tmp_path)
    lock.acquire()
    assert status.read_status(tmp_path) == StackStatus(running=True, pid=os.getpid())
    lock.release()


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b'{"pid": "text"}'])
def test_no_record_or_a_broken_one_is_no_stack(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "stack.json").write_bytes(content)
    assert status.read_status(tmp_path) == StackStatus()
    assert status.read_status(tmp_path / "missing") == StackStatus()


@pytest.mark.parametrize(
    ("states", "healthy"),
    [(["ready", "external"], True), (["ready", "restarting"], False), (["failed"], False), ([], False)],
)
def test_a_stack_is_healthy_when_all_its_components_are(states: list[status.ComponentState], healthy: bool) -> None:
    components = tuple(ComponentStatus("c", state) for state in states)
    assert StackStatus(running=True, pid=1, components=components).healthy is healthy


def test_the_second_lock_is_refused_and_the_first_one_named(tmp_path: Path) -> None:
    first = SupervisorLock(tmp_path)
    first.acquire()
    with pytest.raises(AlreadyRunningError, match=rf"{tmp_path} \(process {os.getpid()}\)"):
        SupervisorLock(tmp_path).acquire()
    first.release()
    second = SupervisorLock(tmp_path)
    second.acquire()
    assert second.holder() == os.getpid()
    second.release()
    assert second.holder() is None


def test_another_process_with_the_recorded_pid_is_not_the_supervisor(tmp_path: Path) -> None:
    """The recorded start time differs, so `stop` sends no signal to it."""
    lock = SupervisorLock(tmp_path)
    lock.acquire()
    (tmp_path / "stack.lock").write_text(f"{os.getpid()} 12345.0")
    assert lock.holder() is None
    assert status.stop(tmp_path) is False
    lock.release()


def test_stop_ends_the_process_that_holds_the_lock(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from sagelift.stack.status import SupervisorLock\n"
        "lock = SupervisorLock(Path(sys.argv[1])); lock.acquire(); print('locked', flush=True); time.sleep(99)"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert status.stop(tmp_path, timeout=10) is True
        assert holder.wait(5) == -15
    assert status.stop(tmp_path) is False

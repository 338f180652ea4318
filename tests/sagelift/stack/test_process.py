"""One child process under its guardian, with small commands instead of servers."""

import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from sagelift.stack.errors import StartCancelled, StartError
from sagelift.stack.process import ManagedProcess, telling_line
from tests.waiting import wait_until

SLEEP = [sys.executable, "-c", "import time; time.sleep(3600)"]
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs prctl, /proc and /dev/shm")


@pytest.fixture
def managed(tmp_path: Path) -> Iterator[Callable[..., ManagedProcess]]:
    made: list[ManagedProcess] = []

    def make(command: list[str] = SLEEP, **options: object) -> ManagedProcess:
        made.append(ManagedProcess("child", command, log=tmp_path / "child.log", **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for process in made:
        process.stop()


def test_a_stopped_child_is_gone_and_can_be_started_again(managed: Callable[..., ManagedProcess]) -> None:
    process = managed()
    process.start()
    first = process.pid
    assert first is not None
    assert process.alive
    process.restart()
    assert not psutil.pid_exists(first)
    assert process.alive
    process.stop()
    process.stop()
    assert not process.alive
    assert process.pid is None


def test_the_error_of_a_child_that_ends_while_starting_quotes_its_log(managed: Callable[..., ManagedProcess]) -> None:
    command = [sys.executable, "-c", "print('INFO reading'); print('ERROR no such file: x'); raise SystemExit(7)"]
    with pytest.raises(StartError, match=r"child ended with exit code 7 while starting: ERROR no such file: x \(log:"):
        managed(command, ready=lambda: False).start()


def test_a_command_that_does_not_exist_is_named(managed: Callable[..., ManagedProcess]) -> None:
    with pytest.raises(StartError, match="child could not be started: /no/such/program: No such file"):
        managed(["/no/such/program"]).start()


def test_a_child_that_never_gets_ready_is_stopped(managed: Callable[..., ManagedProcess]) -> None:
    process = managed(ready=lambda: False, start_timeout=0.2)
    with pytest.raises(StartError, match="was not ready within 0 s"):
        process.start()
    assert not process.alive


def test_a_start_can_be_cancelled(managed: Callable[..., ManagedProcess]) -> None:
    cancelled = threading.Event()
    cancelled.set()
    process = managed(ready=lambda: False)
    with pytest.raises(StartCancelled):
        process.start(cancelled)
    assert not process.alive


def test_a_child_that_ignores_sigterm_is_killed_after_its_deadline(
    managed: Callable[..., ManagedProcess], tmp_path: Path
) -> None:
    command = [
        sys.executable,
        "-uc",
        "import signal, time; signal.signal(15, signal.SIG_IGN); print('up'); time.sleep(99)",
    ]
    process = managed(command, ready=lambda: wrote_up(tmp_path), stop_timeout=0.2)
    process.start()
    pid = process.pid
    process.stop()
    assert not psutil.pid_exists(pid or 0)


def test_the_exit_code_is_that_of_the_child(managed: Callable[..., ManagedProcess]) -> None:
    process = managed([sys.executable, "-c", "raise SystemExit(3)"])
    process.start()
    wait_until(lambda: not process.alive)
    assert process.exit_code == 3


def test_the_child_sees_its_environment_and_no_stdin(managed: Callable[..., ManagedProcess]) -> None:
    script = "import os, sys; print(sorted(os.environ), repr(sys.stdin.read()))"
    process = managed([sys.executable, "-Ic", script], env={"ONLY": "this"})
    process.start()
    wait_until(lambda: not process.alive)
    assert "'ONLY'" in process.output()
    assert "HOME" not in process.output()
    assert process.output().strip().endswith("''")


@linux
@pytest.mark.parametrize("victim", ["child", "guardian"])
def test_nothing_survives_when_child_or_guardian_is_killed(
    victim: str, managed: Callable[..., ManagedProcess], tmp_path: Path
) -> None:
    """Not even a grandchild that left the group and ignores SIGTERM, nor the shared memory, survives."""
    prefix = f"sagelift_test_{uuid.uuid4().hex}_"
    segment = Path("/dev/shm") / f"{prefix}1"
    grandchild = (
        "import os, signal, time; os.setpgid(0, 0); signal.signal(15, 1); print('up', flush=True); time.sleep(99)"
    )
    script = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {grandchild!r}]); time.sleep(99)"
    process = managed([sys.executable, "-c", script], ready=lambda: wrote_up(tmp_path), shm_prefixes=[prefix])
    process.start()
    segment.write_bytes(b"x")
    child = psutil.Process(process.pid)
    everyone = [child, *child.children()]
    assert len(everyone) == 2

    (child if victim == "child" else child.parent()).kill()
    wait_until(lambda: not process.alive)
    process.stop()

    wait_until(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in everyone))
    assert not segment.exists()


@linux
@pytest.mark.parametrize("leak", [False, True], ids=["pipe ends", "a fork holds the pipe"])
def test_nothing_survives_a_parent_that_is_killed(leak: bool, tmp_path: Path) -> None:
    """Even if a forked process keeps the guardian's pipe open: then the parent's pid shows its death."""
    script = (
        "import os, sys, time; from pathlib import Path; from sagelift.stack.process import ManagedProcess\n"
        f"p = ManagedProcess('child', {SLEEP!r}, log=Path(sys.argv[1])); p.start()\n"
        "leaked = os.fork() if sys.argv[2] == 'True' else 0\n"
        "if leaked or sys.argv[2] == 'False': print(p.pid, leaked, flush=True)\n"
        "time.sleep(99)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "log"), str(leak)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid, leaked = map(int, parent.stdout.readline().split())
        child = psutil.Process(pid)
        guardian = child.parent()
        parent.kill()
        parent.wait()
        try:
            wait_until(lambda: not child.is_running() and not alive(guardian))
        finally:
            if leaked:
                os.kill(leaked, signal.SIGKILL)


@pytest.mark.parametrize(
    ("output", "line"),
    [
        ("a\nERROR broken\n\tat x\n\tat y", "ERROR broken"),
        ("ERROR later\njava.io.IOException: No space left on device\n", "java.io.IOException: No space left on device"),
        ("one\ntwo\n", "two"),
        ("", "it wrote nothing"),
    ],
)
def test_the_telling_line_is_the_cause_not_the_last_line(output: str, line: str) -> None:
    assert telling_line(output) == line


def wrote_up(folder: Path) -> bool:
    """Whether the child has set its signal handlers and said so in its log."""
    return "up" in (folder / "child.log").read_text()


def alive(process: psutil.Process | None) -> bool:
    return process is not None and process.is_running() and process.status() != psutil.STATUS_ZOMBIE

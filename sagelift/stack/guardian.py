"""Run one server so that none of its processes outlives its parent. `sagelift.stack.process` starts this file by path.

    python -I -S guardian.py NAME       # `ps` shows NAME, the guarded server

It reads its order as one line of JSON from stdin: {"command", "env", "stop_timeout", "shm_prefixes", "parent"}.

PR_SET_PDEATHSIG alone is not enough: it reaches direct children only (Triton's Python stubs are grandchildren), it
fires when the *thread* that forked ends, and it can only kill, not clean /dev/shm. The guardian instead:

* Reads stdin, a pipe whose write end only its parent has. End of file means that the parent ended, even by SIGKILL.
  It also checks its parent's pid once a second, in case a fork copied the write end.
* Is a subreaper (Linux): a grandchild whose parent died becomes its child, and it kills and reaps it.
* Starts the server in its own session, in a process group of its own, with PR_SET_PDEATHSIG: if the guardian is killed
  with SIGKILL, the server dies too.
* At the end of the pipe, at SIGTERM, or when the server ends: sends SIGTERM to the server, waits for the deadline,
  kills the group and all other children, and removes the /dev/shm segments with the given prefixes.

It answers on stdout with one line of JSON, {"pid": ...} or {"error": ...}, and exits with the server's exit code (128 +
number of a signal). It uses the standard library only and runs with -I -S: it starts in a few milliseconds and no
module can shadow its imports. Without Linux's prctl and /proc (macOS) the pipe and the process group do the work, and
a process that leaves the group escapes.
"""

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PARENT_CHECK_S = 1.0  # between checks of the parent's pid; every other event wakes us at once
_SWEEP_S = 10.0  # a process that survives SIGKILL for this time hangs in the kernel: give up


def main() -> int:
    """Run the server of the order on stdin and return its exit code."""
    order = json.loads(_read_line())
    wake = _wake_on_signals()
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is not None:
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        server = subprocess.Popen(
            order["command"],
            env=order["env"],
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,  # the log file
            stderr=sys.stderr,
            process_group=0,
            preexec_fn=_die_with_guardian(libc) if libc is not None else None,
        )
    except OSError as error:
        _answer({"error": f"{error.filename}: {error.strerror}"})
        return 127
    _answer({"pid": server.pid})
    children = _Children(server.pid)

    while not children.server_ended and not _must_stop(wake, order["parent"], _PARENT_CHECK_S):
        children.reap()
    if not children.server_ended:
        os.kill(server.pid, signal.SIGTERM)
        children.wait(order["stop_timeout"], wake, until=lambda: children.server_ended)
    _kill_group(server.pid)
    children.kill_all(wake)
    for prefix in order["shm_prefixes"]:
        for segment in Path("/dev/shm").glob(f"{prefix}*"):
            segment.unlink(missing_ok=True)
    return children.exit_code


class _Children:
    """The server and the processes that the subreaper inherits; waitpid(-1) reaps them all."""

    def __init__(self, server: int) -> None:
        self._server = server
        self.server_ended = False
        self.none_left = False
        self.exit_code = 128 + signal.SIGKILL

    def reap(self) -> None:
        while not self.none_left:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self.none_left = self.server_ended = True
                return
            if pid == 0:
                return
            if pid == self._server:
                self.server_ended = True
                code = os.waitstatus_to_exitcode(status)
                self.exit_code = code if code >= 0 else 128 - code

    def wait(self, seconds: float, wake: int, until: Callable[[], bool]) -> None:
        deadline = time.monotonic() + seconds
        self.reap()
        while not until() and (left := deadline - time.monotonic()) > 0:
            _drain(wake, min(left, _PARENT_CHECK_S))
            self.reap()

    def kill_all(self, wake: int) -> None:
        """Kill all children repeatedly, because the children of a killed process become ours."""
        deadline = time.monotonic() + _SWEEP_S
        self.reap()
        while not self.none_left and time.monotonic() < deadline:
            for pid in _child_pids():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.wait(0.1, wake, until=lambda: self.none_left)


def _child_pids() -> list[int]:
    """Return our direct children, including zombies; empty without /proc."""
    me, pids = os.getpid(), []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            # "pid (name) state ppid ...": the name may hold spaces and brackets
            if int((entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[1]) == me:
                pids.append(int(entry.name))
    return pids


def _kill_group(server: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: PermissionError for a group of zombies
        os.killpg(server, signal.SIGKILL)


def _die_with_guardian(libc: ctypes.CDLL) -> Callable[[], None]:
    guardian = os.getpid()

    def in_child() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != guardian:  # the guardian died before the line above
            os._exit(128 + signal.SIGKILL)

    return in_child


def _read_line() -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        part = os.read(0, 65536)
        if not part:
            sys.exit(128 + signal.SIGTERM)  # the parent died before it sent its order
        line += part
    return line


def _must_stop(wake: int, parent: int, seconds: float) -> bool:
    """Wait; return True at the end of the pipe, at SIGTERM, SIGINT or SIGHUP, or if the parent has changed."""
    readable, _, _ = select.select([0, wake], [], [], seconds)
    if 0 in readable and not os.read(0, 1024):
        return True
    if wake in readable and any(number != signal.SIGCHLD for number in os.read(wake, 1024)):
        return True
    return os.getppid() != parent


def _drain(wake: int, seconds: float) -> None:
    if select.select([wake], [], [], seconds)[0]:
        os.read(wake, 1024)


def _wake_on_signals() -> int:
    """Turn signals into bytes in a pipe, so that none is lost between a check and a wait."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    return read_end


def _answer(line: dict[str, object]) -> None:
    with contextlib.suppress(OSError):  # the parent has ended: the end of the pipe shows it too
        os.write(1, json.dumps(line).encode() + b"\n")


if __name__ == "__main__":
    sys.exit(main())

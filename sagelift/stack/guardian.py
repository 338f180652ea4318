"""Runs one server so that nothing of it outlives us, however we end. Started by `sagelift.stack.process`, by path.

    python -I -S guardian.py NAME       # NAME only tells people who look at `ps` what it guards

Its order is one line of JSON on stdin: {"command", "env", "stop_timeout", "shm_prefixes", "parent"}.

Why a process of its own: PR_SET_PDEATHSIG reaches a direct child only (Triton's Python stubs are grandchildren), fires
when the *thread* that forked ends, and can only kill, not clean /dev/shm. The guardian instead

* keeps reading stdin, a pipe whose write end only its parent has: end of file means that the parent is gone, killed
  with SIGKILL too. (It also looks at its parent's pid once a second, should a fork have copied the write end.)
* is a subreaper (Linux): a grandchild whose parent died becomes its child, is killed and reaped;
* starts the server in the session it leads, in a process group of its own, with PR_SET_PDEATHSIG: a guardian killed
  with SIGKILL takes the server with it;
* at the end of the pipe, at SIGTERM, or when the server ends by itself: SIGTERM to the server, a deadline, SIGKILL for
  its group and for all that is left, then removes the /dev/shm segments with the given prefixes.

It answers on stdout with one line of JSON, {"pid": ...} or {"error": ...}, and exits as the server did (128 + signal
for a signal). Standard library only, run with -I -S: it starts in a few milliseconds and cannot be shadowed. Without
Linux's prctl and /proc (macOS) the pipe and the process group do the work; what leaves the group escapes.
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
_LOOK_EVERY_S = 1.0  # at the parent's pid; everything else wakes us at once
_SWEEP_S = 10.0  # a process that SIGKILL does not end in this time hangs in the kernel: nothing more can be done


def main() -> int:
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

    while not children.server_ended and not _told_to_stop(wake, order["parent"], _LOOK_EVERY_S):
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
    """The server and what the subreaper inherits; reaped by waitpid(-1) alone, so that no zombie stays."""

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
            _drain(wake, min(left, _LOOK_EVERY_S))
            self.reap()

    def kill_all(self, wake: int) -> None:
        """SIGKILL to every child, again and again: the children of one that dies become ours."""
        deadline = time.monotonic() + _SWEEP_S
        self.reap()
        while not self.none_left and time.monotonic() < deadline:
            for pid in _child_pids():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.wait(0.1, wake, until=lambda: self.none_left)


def _child_pids() -> list[int]:
    """Our direct children, zombies too. Empty without /proc."""
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
        if os.getppid() != guardian:  # it died before the line above
            os._exit(128 + signal.SIGKILL)

    return in_child


def _read_line() -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        part = os.read(0, 65536)
        if not part:
            sys.exit(128 + signal.SIGTERM)  # the parent died before it had said what to do
        line += part
    return line


def _told_to_stop(wake: int, parent: int, seconds: float) -> bool:
    """Waits; true at the pipe's end, at SIGTERM, SIGINT or SIGHUP, or when the parent is another one now."""
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
    """Signals become bytes in a pipe: none is lost between a check and a wait."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    return read_end


def _answer(line: dict[str, object]) -> None:
    with contextlib.suppress(OSError):  # the parent is gone already: the pipe's end says so too
        os.write(1, json.dumps(line).encode() + b"\n")


if __name__ == "__main__":
    sys.exit(main())

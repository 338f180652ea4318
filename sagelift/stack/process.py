"""One supervised child process: started through a guardian, probed until ready, stopped with its children."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sagelift.stack.errors import StartCancelled, StartError

_GUARDIAN = Path(__file__).with_name("guardian.py")
_POLL_S = 0.05  # between two checks of a starting child
_LOG_LIMIT = 20 << 20  # bytes; a larger log is renamed at the next start
# Signs of the cause of a failure in a log, the most informative first.
_SIGNS = ("No space left on device", "Address already in use", "FATAL", "ERROR", "Exception", "rror:", "failed")
_GUARDIAN_GRACE_S = 12.0  # time of the guardian itself after the deadline of the server


class ManagedProcess:
    """A child process that cannot outlive this one. Use each instance from one thread at a time.

    Args:
        name: Name in messages.
        command: The command line.
        log: Path of the log file; output is appended.
        env: The child's environment; by default this process's.
        ready: Polled after the start; returns whether the server answers and must not raise. Without it the child is
            ready as soon as it runs.
        start_timeout: Seconds until the child must be ready.
        stop_timeout: Seconds between SIGTERM and SIGKILL.
        shm_prefixes: Name prefixes of /dev/shm segments that are removed when the child has ended.

    Attributes:
        pid: Process id of the server (not of its guardian); None if it was not started or was stopped.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        ready: Callable[[], bool] | None = None,
        start_timeout: float = 60.0,
        stop_timeout: float = 20.0,
        shm_prefixes: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.command = list(command)
        self.log = log
        self._env = dict(os.environ if env is None else env)
        self._ready = ready
        self._start_timeout = start_timeout
        self._stop_timeout = stop_timeout
        self._shm_prefixes = list(shm_prefixes)
        self._guardian: subprocess.Popen[bytes] | None = None
        self._log_from = 0
        self.pid: int | None = None

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._guardian is not None and self._guardian.poll() is None

    @property
    def exit_code(self) -> int | None:
        """The exit code as in a shell (128 + number of a signal); None while it runs."""
        return None if self._guardian is None else self._guardian.poll()

    def start(self, cancelled: threading.Event | None = None) -> None:
        """Start the child and wait until it is ready. After an error nothing is left running.

        Raises:
            StartError: The child ends, cannot be executed, or is not ready within `start_timeout` seconds.
            StartCancelled: `cancelled` was set during the start.
        """
        if self.alive:
            raise StartError(f"{self.name} is already running (process {self.pid})")
        self._sweep()
        try:
            self._spawn()
            self._wait_ready(cancelled or threading.Event())
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Send SIGTERM, wait `stop_timeout` seconds, then kill all that remain. No effect without a running child."""
        guardian = self._guardian
        if guardian is None:
            return
        assert guardian.stdin is not None
        guardian.stdin.close()
        try:
            guardian.wait(self._stop_timeout + _GUARDIAN_GRACE_S)
        except subprocess.TimeoutExpired:
            guardian.kill()
            guardian.wait()
        self._sweep()

    def restart(self, cancelled: threading.Event | None = None) -> None:
        """Stop the child and start it again."""
        self.stop()
        self.start(cancelled)

    def kill(self) -> None:
        """Kill a server that hangs with SIGKILL; its guardian cleans up as after a crash."""
        if self.alive and self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        self.stop()

    def output(self) -> str:
        """Return what the child wrote since its last start (at most the last megabyte)."""
        try:
            with self.log.open("rb") as log:
                end = log.seek(0, os.SEEK_END)
                log.seek(max(self._log_from, end - (1 << 20)))
                return log.read().decode(errors="replace")
        except OSError:
            return ""

    def _spawn(self) -> None:
        guardian = self._start_guardian()
        assert guardian.stdin is not None
        assert guardian.stdout is not None
        order = {
            "command": self.command,
            "env": self._env,
            "stop_timeout": self._stop_timeout,
            "shm_prefixes": self._shm_prefixes,
            "parent": os.getpid(),
        }
        guardian.stdin.write(json.dumps(order).encode() + b"\n")
        guardian.stdin.flush()
        line = guardian.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": f"its guardian ended (log: {self.log})"}
        if "error" in answer:
            raise StartError(f"{self.name} could not be started: {answer['error']}")
        self.pid = answer["pid"]

    def _start_guardian(self) -> "subprocess.Popen[bytes]":
        self.log.parent.mkdir(parents=True, exist_ok=True)
        if self.log.exists() and self.log.stat().st_size > _LOG_LIMIT:
            self.log.replace(self.log.with_name(f"{self.log.name}.1"))
        with self.log.open("ab") as log:
            self._log_from = log.tell()
            self._guardian = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_GUARDIAN), self.name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # Ctrl-C in the terminal must reach us, not the server
            )
        return self._guardian

    def _wait_ready(self, cancelled: threading.Event) -> None:
        if self._ready is None:
            return
        deadline = time.monotonic() + self._start_timeout
        while not self._ready():
            if not self.alive:
                raise StartError(self._died_message())
            if cancelled.wait(_POLL_S):
                raise StartCancelled(f"{self.name} was stopped while it was starting")
            if time.monotonic() > deadline:
                raise StartError(f"{self.name} was not ready within {self._start_timeout:.0f} s: {self._reason()}")
        if not self.alive:  # another program answered the probe
            raise StartError(self._died_message())

    def _died_message(self) -> str:
        return f"{self.name} ended with exit code {self.exit_code} while starting: {self._reason()}"

    def _reason(self) -> str:
        return f"{telling_line(self.output())} (log: {self.log})"

    def _sweep(self) -> None:
        """Clean up after a guardian that was killed with SIGKILL, and forget the process."""
        guardian = self._guardian
        if guardian is None:
            return
        if guardian.returncode == -signal.SIGKILL:
            _kill_session(guardian.pid)
            for prefix in self._shm_prefixes:
                remove_shared_memory(prefix)
        for stream in (guardian.stdin, guardian.stdout):
            if stream is not None:
                stream.close()
        self._guardian = None
        self.pid = None


def telling_line(output: str) -> str:
    """Return the line of a log that most likely names the cause; it is rarely the last one for Java and Triton."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    for sign in _SIGNS:
        for line in lines:
            if sign in line:
                return line[:500]
    return lines[-1][:500] if lines else "it wrote nothing"


def remove_shared_memory(prefix: str) -> None:
    """Remove the POSIX shared memory segments whose names begin with `prefix` (Linux: /dev/shm)."""
    for segment in Path("/dev/shm").glob(f"{prefix}*"):
        segment.unlink(missing_ok=True)


def _kill_session(session: int) -> None:
    import psutil

    left = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                process.kill()
                left.append(process)
        except (OSError, psutil.Error):
            continue
    psutil.wait_procs(left, timeout=5)

"""What a supervisor tells other processes: `<state>/stack.json`, and the lock that says whether it is alive."""

import contextlib
import fcntl
import os
import signal
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Literal

import msgspec

from sagelift.stack.errors import AlreadyRunningError, StackError

State = Literal["starting", "ready", "restarting", "failed", "external"]

_LOCK_ATTEMPTS = 5  # `sagelift status` holds the lock for an instant to look; that is not another supervisor
_START_TIME_TOLERANCE_S = 2.0  # of a process; the system's clock may be corrected meanwhile


@dataclass(frozen=True)
class ComponentStatus:
    """One server or worker. `failed` means given up on; `external` means given by address, not ours."""

    name: str
    state: State
    address: str | None = None
    pid: int | None = None
    restarts: int = 0
    last_error: str | None = None
    log: str | None = None


@dataclass(frozen=True)
class StackStatus:
    """`running` is whether a supervisor is alive now; the rest is what it wrote last (at `written_at`, Unix time)."""

    running: bool = False
    pid: int | None = None
    written_at: float = 0.0
    kafka_bootstrap: str | None = None
    triton_grpc: str | None = None
    triton_metrics: str | None = None
    model_repository: str | None = None
    components: tuple[ComponentStatus, ...] = field(default=())

    @property
    def healthy(self) -> bool:
        """Whether everything is up; a stack that has only begun to start is not."""
        return self.running and bool(self.components) and all(c.state in ("ready", "external") for c in self.components)

    @property
    def stale(self) -> bool:
        """A supervisor wrote this and was killed before it could take it back."""
        return not self.running and self.pid is not None


def read_status(state_dir: Path) -> StackStatus:
    """The state of the stack in `state_dir`; `running=False` when there is none, or its supervisor is dead."""
    status = read_record(state_dir)
    holder = SupervisorLock(state_dir).holder()
    if holder is None:
        return replace(status, running=False)
    if holder != status.pid:  # what a killed predecessor left: the new supervisor has written nothing yet
        return StackStatus(running=True, pid=holder)
    return replace(status, running=True)


def read_record(state_dir: Path) -> StackStatus:
    """What the last supervisor wrote, alive or not; an empty one when there is none or it cannot be read."""
    try:
        return msgspec.json.decode(_status_file(state_dir).read_bytes(), type=StackStatus)
    except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
        return StackStatus()


def write_status(state_dir: Path, status: StackStatus) -> None:
    path = _status_file(state_dir)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_bytes(msgspec.json.format(msgspec.json.encode(status), indent=2) + b"\n")
    aside.replace(path)


def remove_status(state_dir: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        _status_file(state_dir).unlink()


def stop(state_dir: Path, timeout: float = 60.0) -> bool:
    """Stops the stack of another process and waits for it; False when none was running.

    Raises StackError when it does not end within `timeout` seconds, or is not ours to stop.
    """
    lock = SupervisorLock(state_dir)
    pid = lock.holder()
    if pid is None:
        remove_status(state_dir)
        return False
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return True
    except PermissionError as error:
        raise StackError(f"The stack in {state_dir} belongs to another user (process {pid}).") from error
    deadline = time.monotonic() + timeout
    while lock.holder() == pid:
        if time.monotonic() > deadline:
            raise StackError(f"The stack in {state_dir} (process {pid}) did not stop within {timeout:.0f} s.")
        time.sleep(0.05)
    return True


class SupervisorLock:
    """`<state>/stack.lock`: locked as long as a supervisor lives (the kernel frees it), with its pid and start time."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / "stack.lock"
        self._state_dir = state_dir
        self._handle: IO[str] | None = None

    def acquire(self) -> None:
        """Raises AlreadyRunningError, naming the process that has it."""
        handle = self._path.open("a+", encoding="ascii")
        for attempt in range(1, _LOCK_ATTEMPTS + 1):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if attempt < _LOCK_ATTEMPTS:
                    time.sleep(0.05)
                    continue
                pid = self._recorded()[0]
                handle.close()
                raise AlreadyRunningError(
                    f"A stack is already running in {self._state_dir} (process {pid}): use it, stop it with "
                    "`sagelift down`, or choose another state folder."
                ) from None
        self._handle = handle
        try:
            handle.truncate(0)
            handle.write(f"{os.getpid()} {_start_time(os.getpid())}")
            handle.flush()
        except OSError:
            self.release()
            raise

    def release(self) -> None:
        if self._handle is not None:
            with contextlib.suppress(OSError):  # a full disk: what is still buffered cannot be written
                self._handle.close()
            self._handle = None

    def holder(self) -> int | None:
        """Pid of the living supervisor; None when there is none."""
        try:
            handle = self._path.open("r", encoding="ascii")
        except (FileNotFoundError, NotADirectoryError):
            return None
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                pid, started = self._recorded()
            else:
                return None
        # The number may have been written by an earlier supervisor and belong to someone else's process by now.
        actual = _start_time(pid)
        return pid if actual is not None and abs(actual - started) < _START_TIME_TOLERANCE_S else None

    def _recorded(self) -> tuple[int, float]:
        try:
            pid, started = self._path.read_text(encoding="ascii").split()
            return int(pid), float(started)
        except (OSError, ValueError):
            return 0, 0.0


def _start_time(pid: int) -> float | None:
    import psutil

    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return None


def _status_file(state_dir: Path) -> Path:
    return state_dir / "stack.json"

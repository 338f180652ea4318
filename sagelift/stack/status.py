"""The state of a stack for other processes: `<state>/stack.json`, and the lock that its supervisor holds."""

import contextlib
import fcntl
import os
import signal
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Literal

import msgspec

from feature_repo.files import write_atomically
from sagelift.stack.cache import Say
from sagelift.stack.errors import AlreadyRunningError, StackError

ComponentState = Literal["starting", "ready", "restarting", "failed", "external"]
"""`failed`: the supervisor gave up. `external`: a service given by address, which this stack did not start."""

_LOCK_ATTEMPTS = 5  # `sagelift status` holds the lock for an instant and is no supervisor
_REMAINS_TIMEOUT_S = 45.0  # longer than a guardian's deadline for its server
_START_TIME_TOLERANCE_S = 2.0  # the system clock may be corrected while a process runs


@dataclass(frozen=True)
class ComponentStatus:
    """One server or worker.

    Attributes:
        name: Name, such as "Kafka".
        state: Its state.
        address: host:port for clients.
        pid: Process id, if it runs here.
        restarts: Number of restarts so far.
        last_error: Why it was last restarted or given up.
        log: Path of its log.
    """

    name: str
    state: ComponentState
    address: str | None = None
    pid: int | None = None
    restarts: int = 0
    last_error: str | None = None
    log: str | None = None


@dataclass(frozen=True)
class StackStatus:
    """The state of a stack.

    Attributes:
        running: Whether a supervisor runs now. All other fields are from its last write.
        pid: Process id of the supervisor.
        written_at: Unix time of the last write.
        kafka_bootstrap: host:port of Kafka.
        triton_grpc: host:port of Triton's gRPC.
        triton_metrics: host:port of Triton's metrics.
        model_repository: Path of the model repository.
        components: All servers and workers.
    """

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
        """Whether the supervisor runs and all its components are ready."""
        return self.running and bool(self.components) and all(c.state in ("ready", "external") for c in self.components)

    @property
    def stale(self) -> bool:
        """Whether the supervisor was killed and left this record."""
        return not self.running and self.pid is not None


def read_status(state_dir: Path) -> StackStatus:
    """Return the state of the stack in `state_dir`; `running` is False if it has no living supervisor."""
    status = read_record(state_dir)
    holder = SupervisorLock(state_dir).holder()
    if holder is None:
        return replace(status, running=False)
    if holder != status.pid:  # the record of a killed predecessor: the new supervisor has not written yet
        return StackStatus(running=True, pid=holder)
    return replace(status, running=True)


def read_record(state_dir: Path) -> StackStatus:
    """Return the record of the last supervisor; an empty status without a readable record."""
    try:
        return msgspec.json.decode(_status_file(state_dir).read_bytes(), type=StackStatus)
    except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
        return StackStatus()


def write_status(state_dir: Path, status: StackStatus) -> None:
    """Write the record."""
    write_atomically(_status_file(state_dir), msgspec.json.format(msgspec.json.encode(status), indent=2) + b"\n")


def remove_status(state_dir: Path) -> None:
    """Remove the record, if it exists."""
    with contextlib.suppress(FileNotFoundError):
        _status_file(state_dir).unlink()


def stop(state_dir: Path, timeout: float = 60.0) -> bool:
    """Stop the stack of another process and wait for its end.

    Returns:
        Whether a stack was running.

    Raises:
        StackError: The stack did not end within `timeout` seconds, or belongs to another user.
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


def wait_for_remains(state_dir: Path, say: Say) -> None:
    """Wait for the servers of a killed supervisor, which their guardians may still be stopping.

    Raises:
        StackError: One of them does not end.
    """
    import psutil

    old = read_record(state_dir)
    remains = []
    for pid in filter(None, (component.pid for component in old.components)):
        try:
            process = psutil.Process(pid)
            if process.create_time() <= old.written_at and process.status() != psutil.STATUS_ZOMBIE:
                remains.append(process)
        except psutil.Error:
            continue
    if not remains:
        return
    say(f"Waiting for the servers of a stack in {state_dir} that was killed")
    _, alive = psutil.wait_procs(remains, timeout=_REMAINS_TIMEOUT_S)
    if alive:
        raise StackError(
            f"Process {alive[0].pid} of an earlier stack in {state_dir} does not end: end it, then try again."
        )


class SupervisorLock:
    """`<state>/stack.lock` with pid and start time of its supervisor; the kernel frees it when the supervisor ends."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / "stack.lock"
        self._state_dir = state_dir
        self._handle: IO[str] | None = None

    def acquire(self) -> None:
        """Take the lock; raises AlreadyRunningError with the process that holds it."""
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
        """Free the lock; does nothing if it is not held."""
        if self._handle is not None:
            with contextlib.suppress(OSError):  # a full disk: buffered bytes cannot be written
                self._handle.close()
            self._handle = None

    def holder(self) -> int | None:
        """Return the pid of the living supervisor; None if no supervisor lives."""
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
        # The pid may be an earlier supervisor's, and another process may have it now.
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

"""The local stack as a whole: Kafka, Triton and workers in one state folder, started, watched and stopped together.

    with LocalStack(state_dir, cache_dir, StackOptions(), say=print) as stack:
        stack.add_worker(WorkerSpec("catalogue", [sys.executable, "-m", ...]))

`run` is the same as a long-running supervisor (`sagelift up`); `read_status` and `stop` serve `sagelift status | down`.
"""

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, Self

from sagelift.stack import kafka, triton
from sagelift.stack.components import Say, fetch_kafka, fetch_triton
from sagelift.stack.errors import StackError, StartError, UnreachableError
from sagelift.stack.kafka import KafkaBroker
from sagelift.stack.status import (
    ComponentStatus,
    StackStatus,
    SupervisorLock,
    read_record,
    read_status,
    remove_status,
    stop,
    write_status,
)
from sagelift.stack.supervised import RestartPolicy, Supervised
from sagelift.stack.triton import TritonServer
from sagelift.stack.worker import Worker, WorkerSpec

__all__ = ["LocalStack", "StackOptions", "StackStatus", "WorkerSpec", "read_status", "run", "stop"]

_MEGABYTE = 1 << 20
_STATE_NEEDS = 200 * _MEGABYTE  # below it Kafka soon cannot write, and ends
_REMAINS_TIMEOUT_S = 45.0  # a guardian's deadline for its server, and some


@dataclass(frozen=True)
class StackOptions:
    """A service given by address (host:port) is not started, only asked whether it answers."""

    kafka_bootstrap: str | None = None
    kafka_port: int | None = None
    kafka_heap_mb: int = 256
    triton_url: str | None = None
    triton_port: int | None = None
    model_repository: Path | None = None
    """What the local Triton serves; `models` in the state folder by default."""
    kafka_answers: Callable[[str], bool] = kafka.probe
    """Asked once with the address of an external Kafka; may raise a ConnectionError that says what is wrong."""
    triton_answers: Callable[[str], bool] = triton.probe
    """Likewise of an external Triton; may raise a RuntimeError."""
    triton_probe: Callable[[str], bool] | None = None
    """Asked with the address once a second, to return within seconds: an inference finds a model that hangs."""
    restart_policy: RestartPolicy = field(default_factory=RestartPolicy)


class LocalStack:
    """A context manager: started on entry, everything stopped on exit.

    `say` gets one line at a time, from several threads.
    """

    def __init__(
        self, state_dir: Path, cache_dir: Path, options: StackOptions | None = None, *, say: Say = lambda _: None
    ) -> None:
        self.state_dir = state_dir.expanduser().resolve()
        self._options = options or StackOptions()
        self.model_repository = (self._options.model_repository or self.state_dir / "models").expanduser().resolve()
        self.kafka: KafkaBroker | None = None
        self.triton: TritonServer | None = None
        self._cache_dir = cache_dir
        self._say_line = say
        self._lock = threading.RLock()
        self._supervisor_lock = SupervisorLock(self.state_dir)
        self._supervised: list[Supervised] = []
        self._external: list[ComponentStatus] = []
        self._running = False

    @property
    def kafka_bootstrap(self) -> str:
        """host:port (or several, comma-separated, of an external cluster)."""
        if self.kafka is not None:
            return self.kafka.bootstrap
        return self._options.kafka_bootstrap or _not_started("Kafka")

    @property
    def triton_grpc(self) -> str:
        """host:port for gRPC clients."""
        if self.triton is not None:
            return self.triton.grpc
        return self._options.triton_url or _not_started("Triton")

    @property
    def triton_metrics(self) -> str | None:
        """host:port of http://.../metrics; None for an external Triton."""
        return self.triton.metrics if self.triton is not None else None

    def start(self) -> Self:
        """Fetches what is missing, then starts Kafka and Triton side by side and watches them.

        Raises a StackError, with nothing left running: AlreadyRunningError for a second supervisor on the same folder,
        UnreachableError for an external service, and those of the components.
        """
        with self._folder_errors():
            self._prepare_folder()
            self._supervisor_lock.acquire()
            try:
                self._wait_for_remains()
                self._running = True
                self._write_status()
                self._probe_external()
                self._write_status()
                self._start_servers()
            except BaseException:
                self.stop()
                raise
        return self

    def add_worker(self, spec: WorkerSpec) -> None:
        """Starts a further command and keeps it running until the stack stops. Raises StartError."""
        if not self._running:
            raise StartError(f"Worker {spec.name!r} cannot be started: the stack in {self.state_dir} is not running")
        worker = self._supervise(spec.name, Worker(spec, self.state_dir / "workers"))
        worker.start()

    def load_model(self, name: str) -> None:
        """Makes Triton load a model (or its new version) from its repository. Raises ModelError."""
        triton.load_model(self.triton_grpc, name)

    def status(self) -> StackStatus:
        with self._lock:
            return StackStatus(
                running=self._running,
                pid=os.getpid(),
                written_at=time.time(),
                kafka_bootstrap=self.kafka.address if self.kafka else self._options.kafka_bootstrap,
                triton_grpc=self.triton.address if self.triton else self._options.triton_url,
                triton_metrics=self.triton.metrics if self.triton and self.triton.metrics_port else None,
                model_repository=str(self.model_repository),
                components=(*self._external, *(s.status for s in self._supervised)),
            )

    def stop(self) -> None:
        """Stops workers first, then the servers side by side. Safe to call twice, and on a stack that never started."""
        servers = [s for s in self._supervised if not isinstance(s.server, Worker)]
        workers = [s for s in self._supervised if isinstance(s.server, Worker)]
        for supervised in self._supervised:
            supervised.cancel()
        for group in (workers, servers):
            if group:
                with ThreadPoolExecutor(len(group)) as pool:
                    list(pool.map(Supervised.stop, group))
        with self._lock:
            if self._running:
                self._running = False
                self._supervised.clear()
                self._external.clear()
                remove_status(self.state_dir)
        self._supervisor_lock.release()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @contextmanager
    def _folder_errors(self) -> Iterator[None]:
        try:
            yield
        except StackError:
            raise
        except OSError as error:
            raise StackError(
                f"The state folder {self.state_dir} cannot be used ({error.filename or 'writing'}: {error.strerror}): "
                "choose another one, or make it writable and make room."
            ) from error

    def _prepare_folder(self) -> None:
        self.model_repository.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.state_dir).free
        if free < _STATE_NEEDS:
            raise StackError(
                f"The disk that holds {self.state_dir} has {free // _MEGABYTE} MB free and "
                f"{_STATE_NEEDS // _MEGABYTE} MB are needed: free some space or choose a state folder on another disk."
            )

    def _wait_for_remains(self) -> None:
        """After a supervisor that was killed: its guardians may still be stopping servers on this folder."""
        import psutil

        old = read_record(self.state_dir)
        remains = []
        for pid in filter(None, (component.pid for component in old.components)):
            try:
                process = psutil.Process(pid)
                if process.create_time() <= old.written_at and process.status() != psutil.STATUS_ZOMBIE:
                    remains.append(process)
            except psutil.Error:
                continue
        if remains:
            self._say(f"Waiting for the servers of a stack in {self.state_dir} that was killed")
            _, alive = psutil.wait_procs(remains, timeout=_REMAINS_TIMEOUT_S)
            if alive:
                raise StackError(
                    f"Process {alive[0].pid} of an earlier stack in {self.state_dir} does not end: end it, then try "
                    "again."
                )

    def _probe_external(self) -> None:
        for name, address, answers in (
            ("Kafka", self._options.kafka_bootstrap, self._options.kafka_answers),
            ("Triton", self._options.triton_url, self._options.triton_answers),
        ):
            if address is None:
                continue
            try:
                there = answers(address)
            except (ConnectionError, RuntimeError) as error:
                raise UnreachableError(f"{name} at {address} cannot be used: {error}") from error
            if not there:
                raise UnreachableError(
                    f"No {name} server answers at {address}: check the address and that it runs, or leave it out to "
                    "have one started here."
                )
            self._external.append(ComponentStatus(name, "external", address))
            self._say(f"{name} at {address} answers")

    def _start_servers(self) -> None:
        options = self._options
        if options.kafka_bootstrap is None:
            fetch_kafka(self._cache_dir, self._say)
            self.kafka = KafkaBroker(
                self.state_dir / "kafka", self._cache_dir, port=options.kafka_port, heap_mb=options.kafka_heap_mb
            )
            self._supervise("Kafka", self.kafka)
        if options.triton_url is None:
            fetch_triton(self._cache_dir, self._say)
            self.triton = TritonServer(
                self.state_dir / "triton",
                self._cache_dir,
                self.model_repository,
                grpc_port=options.triton_port,
                extra_probe=options.triton_probe,
            )
            self._supervise("Triton", self.triton)
        if not self._supervised:
            return
        with ThreadPoolExecutor(len(self._supervised)) as pool:
            try:
                starts = [pool.submit(supervised.start) for supervised in self._supervised]
                done, _ = wait(starts, return_when=FIRST_EXCEPTION)
                for start in done:
                    start.result()
            except BaseException:  # Ctrl-C too: the pool's end waits for the other start, which must hear of it
                for supervised in self._supervised:
                    supervised.cancel()
                raise

    def _supervise(self, name: str, server: KafkaBroker | TritonServer | Worker) -> Supervised:
        supervised = Supervised(
            name, server, say=self._say, changed=self._write_status, policy=self._options.restart_policy
        )
        with self._lock:
            self._supervised.append(supervised)
        return supervised

    def _say(self, line: str) -> None:
        with self._lock, suppress(OSError):  # a terminal or pipe that is gone must not end a watching thread
            self._say_line(line)

    def _write_status(self) -> None:
        with self._lock:
            if not self._running:
                return
            try:
                write_status(self.state_dir, self.status())
            except OSError as error:  # a full disk must not end the supervision
                self._say(f"{self.state_dir / 'stack.json'} could not be written: {error.strerror}")


def run(
    stack: LocalStack,
    workers: Callable[[LocalStack], Sequence[WorkerSpec]] = lambda _: (),
    *,
    say: Say = lambda _: None,
) -> int:
    """`sagelift up`: until Ctrl-C (returns 130), SIGTERM or SIGHUP (returns 0), with everything stopped then.

    `workers` is called once the servers are ready, so that commands can be told their addresses. Main thread only.
    """
    with _signals_raise():
        try:
            with stack:
                for spec in workers(stack):
                    stack.add_worker(spec)
                say("The stack is up. Ctrl-C stops it.")
                threading.Event().wait()
        except _Signalled as signalled:
            return 130 if signalled.number == signal.SIGINT else 0
    raise AssertionError("unreachable")


class _Signalled(BaseException):
    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def _signals_raise() -> Iterator[None]:
    """The first signal ends what the main thread does; later ones must not disturb the clean-up."""

    def on_signal(number: int, _: object) -> NoReturn:
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)
        raise _Signalled(number)

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, on_signal) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _not_started(what: str) -> NoReturn:
    raise StartError(f"{what} has no address before the stack was started")

"""The local stack: Kafka, Triton and workers in one state folder, started, watched and stopped together.

    with LocalStack(state_dir, cache_dir, StackOptions(), say=print) as stack:
        stack.add_worker(WorkerSpec("catalogue", [sys.executable, "-m", ...]))

`foreground.run` keeps a stack running for `sagelift up`; `status.read_status` and `status.stop` serve
`sagelift status` and `sagelift down`.
"""

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, Self

from sagelift.stack import kafka, triton
from sagelift.stack.cache import MEGABYTE, Say
from sagelift.stack.errors import StackError, StartError, UnreachableError
from sagelift.stack.kafka import KafkaBroker
from sagelift.stack.kafka_jars import fetch_kafka
from sagelift.stack.status import (
    ComponentStatus,
    StackStatus,
    SupervisorLock,
    remove_status,
    wait_for_remains,
    write_status,
)
from sagelift.stack.supervised import RestartPolicy, Supervised
from sagelift.stack.triton import TritonServer
from sagelift.stack.triton_wheel import fetch_triton
from sagelift.stack.worker import Worker, WorkerSpec

__all__ = ["LocalStack", "StackOptions", "WorkerSpec"]

_STATE_NEEDS = 200 * MEGABYTE  # with less space, Kafka soon cannot write and ends


@dataclass(frozen=True)
class StackOptions:
    """The services to start, and their options. A service with an address is external: it is probed, not started.

    Attributes:
        kafka_bootstrap: Address (host:port) of an external Kafka.
        kafka_port: Port of the local Kafka; by default a free one.
        kafka_heap_mb: Heap of the local Kafka in MB.
        triton_url: Address (host:port) of an external Triton.
        triton_port: gRPC port of the local Triton; by default a free one.
        model_repository: Model repository of the local Triton; by default `models` in the state folder.
        kafka_answers: Probe of an external Kafka. It may raise a ConnectionError that describes the problem.
        triton_answers: Probe of an external Triton. It may raise a RuntimeError that describes the problem.
        triton_probe: Called once a second with the address of the local Triton; must return within seconds. An
            inference detects a model that hangs.
        restart_policy: When to restart a component and when to give up.
    """

    kafka_bootstrap: str | None = None
    kafka_port: int | None = None
    kafka_heap_mb: int = 256
    triton_url: str | None = None
    triton_port: int | None = None
    model_repository: Path | None = None
    kafka_answers: Callable[[str], bool] = kafka.probe
    triton_answers: Callable[[str], bool] = triton.probe
    triton_probe: Callable[[str], bool] | None = None
    restart_policy: RestartPolicy = field(default_factory=RestartPolicy)


class LocalStack:
    """A stack in one state folder. As a context manager it starts on entry and stops everything on exit.

    Args:
        state_dir: State folder.
        cache_dir: Cache folder of the downloaded servers.
        options: The services to start, and their options.
        say: Called with one line at a time, from several threads.

    Attributes:
        state_dir: Absolute path of the state folder.
        model_repository: Absolute path of the model repository.
        kafka: The local broker; None if Kafka is external or not started.
        triton: The local Triton; None if Triton is external or not started.
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
        """host:port of Kafka, or a comma-separated list for an external cluster."""
        if self.kafka is not None:
            return self.kafka.bootstrap
        return self._options.kafka_bootstrap or _not_started("Kafka")

    @property
    def triton_grpc(self) -> str:
        """host:port of Triton's gRPC."""
        if self.triton is not None:
            return self.triton.grpc
        return self._options.triton_url or _not_started("Triton")

    @property
    def triton_metrics(self) -> str | None:
        """host:port of Triton's metrics; None for an external Triton."""
        return self.triton.metrics if self.triton is not None else None

    def start(self) -> Self:
        """Download what is missing, then start Kafka and Triton in parallel and watch them.

        After an error nothing is left running.

        Raises:
            AlreadyRunningError: Another supervisor uses the state folder.
            UnreachableError: An external service does not answer.
            StackError: A component cannot be downloaded or started.
        """
        with self._folder_errors():
            self._prepare_folder()
            self._supervisor_lock.acquire()
            try:
                wait_for_remains(self.state_dir, self._say)
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
        """Start a worker and keep it running until the stack stops; raises StartError."""
        if not self._running:
            raise StartError(f"Worker {spec.name!r} cannot be started: the stack in {self.state_dir} is not running")
        worker = self._supervise(spec.name, Worker(spec, self.state_dir / "workers"))
        worker.start()

    def load_model(self, name: str) -> None:
        """Make Triton load a model, or its new version, from the repository; raises ModelError."""
        triton.load_model(self.triton_grpc, name)

    def status(self) -> StackStatus:
        """Return the current state."""
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
        """Stop the workers, then the servers in parallel. Does nothing if the stack does not run."""
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
                "choose another folder, or make this one writable and free some space."
            ) from error

    def _prepare_folder(self) -> None:
        self.model_repository.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.state_dir).free
        if free < _STATE_NEEDS:
            raise StackError(
                f"The disk that holds {self.state_dir} has {free // MEGABYTE} MB free and "
                f"{_STATE_NEEDS // MEGABYTE} MB are needed: free some space or choose a state folder on another disk."
            )

    def _probe_external(self) -> None:
        for name, address, answers in (
            ("Kafka", self._options.kafka_bootstrap, self._options.kafka_answers),
            ("Triton", self._options.triton_url, self._options.triton_answers),
        ):
            if address is None:
                continue
            try:
                answered = answers(address)
            except (ConnectionError, RuntimeError) as error:
                raise UnreachableError(f"{name} at {address} cannot be used: {error}") from error
            if not answered:
                raise UnreachableError(
                    f"No {name} server answers at {address}: check the address and that the server runs, or leave the "
                    "address out to start a local one."
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
            except BaseException:  # Ctrl-C too: the pool waits for the other start, which must be cancelled
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
        with self._lock, suppress(OSError):  # a closed terminal or pipe must not end a watching thread
            self._say_line(line)

    def _write_status(self) -> None:
        with self._lock:
            if not self._running:
                return
            try:
                write_status(self.state_dir, self.status())
            except OSError as error:  # a full disk must not end the supervision
                self._say(f"{self.state_dir / 'stack.json'} could not be written: {error.strerror}")


def _not_started(what: str) -> NoReturn:
    raise StartError(f"{what} has no address before the stack was started")

"""The real `tritonserver` of the nvidia-pytriton wheel; NVIDIA's containers can serve the same model repository."""

import hashlib
import os
import shutil
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from sagelift.stack.errors import MissingComponentError, ModelError, PortError, StartCancelled, StartError
from sagelift.stack.ports import LOOPBACK, is_free, pick_ports, require_free
from sagelift.stack.process import ManagedProcess, remove_shared_memory
from sagelift.stack.server import ManagedServer
from sagelift.stack.triton_wheel import triton_home

_START_ATTEMPTS = 3  # with other ports, if another program took a port that was free
_LOAD_TIMEOUT_S = 180.0  # a model that imports torch and compiles is slow on a busy machine
_SHM_MB = 64  # per model instance, and the step of its growth; the default of 1 MB grows in the hot path
_STUB_TIMEOUT_S = 120  # for a stub to import its model; torch on a busy machine needs more than the default of 30 s
_PARALLEL_LOADS = 2
_STUB = "triton_python_backend_stub"


class TritonServer(ManagedServer):
    """A Triton server on loopback: `with TritonServer(folder, cache, repository) as triton: ... triton.grpc`.

    It serves gRPC and metrics only. A start loads the models of the repository; `load` loads later ones. `kill` is
    quick, while a graceful stop waits until its deadline for a stub that died.

    Args:
        folder: Folder of the log and the launch files.
        cache: Cache folder with the wheel (`triton_wheel.fetch_triton`).
        repository: Model repository; it may be empty.
        grpc_port: Port for gRPC. None picks a free port at the first start and keeps it for restarts.
        metrics_port: Port for Prometheus metrics, likewise.
        extra_probe: Called with the address by `healthy`. Only a real inference with a known answer detects a stub
            that hangs.
        arguments: More arguments of tritonserver.
        credentials: gRPC credentials for calls to the server, if `arguments` enable TLS.

    Attributes:
        repository: Absolute path of the model repository.
        grpc_port: Port for gRPC; None before the first start without a configured port.
        metrics_port: Port for metrics, likewise.
        shm_prefix: Name prefix of the server's /dev/shm segments.
        model_errors: By model, why the last start could not load it.
    """

    def __init__(
        self,
        folder: Path,
        cache: Path,
        repository: Path,
        *,
        grpc_port: int | None = None,
        metrics_port: int | None = None,
        extra_probe: Callable[[str], bool] | None = None,
        arguments: Sequence[str] = (),
        credentials: Any = None,
    ) -> None:
        super().__init__(folder, "triton.log")
        self.repository = repository.expanduser().resolve()
        self._cache = cache
        self.grpc_port = grpc_port
        self.metrics_port = metrics_port
        self._extra_probe = extra_probe
        self._arguments = arguments
        self._credentials = credentials
        # The same for every server of this folder: the next server removes the segments of a killed server.
        self.shm_prefix = f"sagelift_{hashlib.sha256(str(self.folder).encode()).hexdigest()[:10]}_"
        self.model_errors: dict[str, ModelError] = {}

    @property
    def grpc(self) -> str:
        """host:port for gRPC clients; raises StartError before the first start, which picks the port."""
        return self._address(self.grpc_port)

    @property
    def metrics(self) -> str:
        """host:port of http://.../metrics (Prometheus)."""
        return self._address(self.metrics_port)

    @property
    def address(self) -> str | None:
        """host:port for gRPC clients; None before the first start."""
        return None if self.grpc_port is None else self.grpc

    def start(self, cancelled: threading.Event | None = None, *, strict: bool = True) -> Self:
        """Start the server and load all models of the repository (1 s, plus the time of the models).

        Args:
            cancelled: Setting it aborts the start.
            strict: Whether a model that cannot be loaded is an error. If not, `model_errors` names it and the other
                models serve.

        Raises:
            PortError: A configured port is in use.
            MissingComponentError: The wheel is not complete in the cache.
            StartError: The server ended, or was not ready in time.
            ModelError: A model could not be loaded; the message gives its name and Triton's reason.
        """
        cancelled = cancelled or threading.Event()
        home = triton_home(self._cache)
        self.repository.mkdir(parents=True, exist_ok=True)
        backends = self._link_backends(home)
        remove_shared_memory(self.shm_prefix)
        self._start_server(home, backends, cancelled)
        try:
            self.model_errors = self._load_all(cancelled)
            if strict and self.model_errors:
                raise next(iter(self.model_errors.values()))
        except BaseException:
            self.kill()
            raise
        return self

    def revive(self, cancelled: threading.Event) -> str | None:
        """Start again with the models that can be loaded; return why the others cannot, else None."""
        self.start(cancelled, strict=False)
        return "; ".join(map(str, self.model_errors.values())) or None

    def load(self, model: str) -> None:
        """Load a model, its new version or its new configuration; raises ModelError with Triton's reason."""
        load_model(self.grpc, model, self._credentials)

    def unload(self, model: str) -> None:
        """Unload a model; does nothing if it is not loaded. Raises ModelError with Triton's reason."""
        unload_model(self.grpc, model, self._credentials)

    def healthy(self, timeout: float = 3.0) -> bool:
        """Return whether the server is live and all Python processes of its models run.

        Triton does not restart a dead stub, and it still reports the model as ready while every request fails. The
        server's *ready* state is not used: it becomes false if a new version fails to load while the old one serves.
        """
        if self.grpc_port is None or not probe(self.grpc, timeout, self._credentials) or self._has_dead_stub():
            return False
        return self._extra_probe is None or self._extra_probe(self.grpc)

    def models(self) -> list[str]:
        """Return the names of the models in the repository (folders with a numbered version), sorted."""
        return sorted(
            folder.name
            for folder in self.repository.iterdir()
            if folder.is_dir() and any(v.name.isdigit() and v.is_dir() for v in folder.iterdir())
        )

    @staticmethod
    def _address(port: int | None) -> str:
        if port is None:
            raise StartError("Triton has no address before it was started")
        return f"{LOOPBACK}:{port}"

    def _ports(self) -> tuple[int, int]:
        free = pick_ports(2, taken=[p for p in (self.grpc_port, self.metrics_port) if p is not None])
        return self.grpc_port or free[0], self.metrics_port or free[1]

    def _start_server(self, home: Path, backends: Path, cancelled: threading.Event) -> None:
        configured = self.grpc_port is not None and self.metrics_port is not None
        for port in (self.grpc_port, self.metrics_port):
            if port is not None:
                require_free(port, "Triton")
        for attempt in range(1, _START_ATTEMPTS + 1):
            grpc_port, metrics_port = self._ports()
            try:
                self._start_on(grpc_port, metrics_port, home, backends, cancelled)
            except StartError as error:
                lost = [port for port in (grpc_port, metrics_port) if not is_free(port)]
                if not lost:
                    raise
                if configured:
                    require_free(lost[0], "Triton")
                if attempt == _START_ATTEMPTS:
                    raise PortError(f"Triton found its port in use {attempt} times in a row: {error}") from error
            else:
                self.grpc_port, self.metrics_port = grpc_port, metrics_port
                return

    def _load_all(self, cancelled: threading.Event) -> dict[str, ModelError]:
        errors = {}
        with ThreadPoolExecutor(_PARALLEL_LOADS) as pool:
            loads = {pool.submit(self.load, model): model for model in self.models()}
            while wait(loads, timeout=0.1).not_done:
                if cancelled.is_set():
                    pool.shutdown(wait=False, cancel_futures=True)
                    self.kill()  # ends the loads in progress
                    raise StartCancelled("Triton was stopped while it was loading its models")
            for load, model in loads.items():
                error = load.exception()
                if isinstance(error, ModelError):
                    errors[model] = error
                elif error is not None:
                    raise error
        if not self.alive:
            raise StartError(f"Triton ended while it was loading its models (log: {self.log})")
        return errors

    def _has_dead_stub(self) -> bool:
        import psutil

        try:
            server = psutil.Process(self.pid)
            return any(child.status() == psutil.STATUS_ZOMBIE for child in server.children())
        except psutil.Error:
            return False  # the server itself ended: another check detects that

    def _link_backends(self, home: Path) -> Path:
        """Make the backend folder of tritonserver from links into the wheel, with the stub for this Python version."""
        server = home / "pytriton" / "tritonserver"
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        stub = server / "python_backend_stubs" / version / _STUB
        if not stub.is_file():
            versions = sorted(p.name for p in (server / "python_backend_stubs").iterdir())
            raise MissingComponentError(
                f"Triton's wheel has no Python backend for Python {version} (only for {', '.join(versions)}): use one "
                "of these."
            )
        python = self.folder / "backends" / "python"
        shutil.rmtree(python, ignore_errors=True)
        python.mkdir(parents=True)
        for file in [*(server / "backends" / "python").iterdir(), stub]:
            if file.is_file():
                (python / file.name).symlink_to(file)
        return python.parent

    def _start_on(
        self, grpc_port: int, metrics_port: int, home: Path, backends: Path, cancelled: threading.Event
    ) -> None:
        server = home / "pytriton" / "tritonserver"
        python = "--backend-config=python,"
        command = [
            str(server / "bin" / "tritonserver"),
            f"--model-repository={self.repository}",
            "--model-control-mode=explicit",
            f"--backend-directory={backends}",
            f"--cache-directory={server / 'caches'}",
            "--allow-http=false",  # gRPC is enough, and one open port less
            f"--grpc-address={LOOPBACK}",  # the defaults are 0.0.0.0
            f"--grpc-port={grpc_port}",
            f"--metrics-address={LOOPBACK}",
            f"--metrics-port={metrics_port}",
            "--disable-auto-complete-config",  # the file alone defines a model's configuration
            "--exit-timeout-secs=10",
            f"{python}shm-region-prefix-name={self.shm_prefix}",
            f"{python}shm-default-byte-size={_SHM_MB << 20}",
            f"{python}shm-growth-byte-size={_SHM_MB << 20}",
            f"{python}stub-timeout-seconds={_STUB_TIMEOUT_S}",
            *self._arguments,
        ]
        self._process = ManagedProcess(
            "Triton",
            command,
            log=self.log,
            env=_environment(home),
            ready=lambda: probe(f"{LOOPBACK}:{grpc_port}", 1.0, self._credentials),
            start_timeout=60.0,
            stop_timeout=20.0,
            shm_prefixes=[self.shm_prefix],
        )
        self._process.start(cancelled)


def probe(address: str, timeout: float = 3.0, credentials: Any = None) -> bool:
    """Return whether a Triton server at host:port is live; `timeout` is in seconds."""
    from tritonclient.utils import InferenceServerException

    try:
        with _client(address, credentials) as client:
            return bool(client.is_server_live(client_timeout=timeout))
    except InferenceServerException:
        return False


def load_model(address: str, model: str, credentials: Any = None) -> None:
    """Make the Triton server at host:port load a model; raises ModelError with Triton's reason."""
    with _client(address, credentials) as client, _model_errors("load", model):
        client.load_model(model, client_timeout=_LOAD_TIMEOUT_S)


def unload_model(address: str, model: str, credentials: Any = None) -> None:
    """Make the Triton server at host:port unload a model; raises ModelError with Triton's reason."""
    with _client(address, credentials) as client, _model_errors("unload", model):
        client.unload_model(model, client_timeout=_LOAD_TIMEOUT_S)


@contextmanager
def _client(address: str, credentials: Any) -> Iterator[Any]:
    from tritonclient.grpc import InferenceServerClient

    client = InferenceServerClient(address, creds=credentials)
    try:
        yield client
    finally:
        client.close()


@contextmanager
def _model_errors(verb: str, model: str) -> Iterator[None]:
    from tritonclient.utils import InferenceServerException

    try:
        yield
    except InferenceServerException as error:
        # The first line is the reason; the others are a Python traceback, which is in the log too.
        reason = str(error.message()).strip().splitlines()[0].rstrip("; ")
        raise ModelError(f"Triton could not {verb} model {model!r}: {reason}") from error


def _environment(home: Path) -> dict[str, str]:
    def joined(first: list[str], name: str) -> str:
        return os.pathsep.join([*first, *filter(None, [os.environ.get(name)])])

    libraries = [str(home / "nvidia_pytriton.libs"), str(sysconfig.get_config_var("LIBDIR"))]
    return {
        **os.environ,
        # The stub embeds the first Python on PATH, which must be that of our virtual environment.
        "PATH": joined([str(Path(sys.executable).parent)], "PATH"),
        "LD_LIBRARY_PATH": joined(libraries, "LD_LIBRARY_PATH"),
        "PYTHONUNBUFFERED": "1",  # what a model prints reaches the log before a crash
    }

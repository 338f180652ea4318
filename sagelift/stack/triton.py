"""The real `tritonserver` of the nvidia-pytriton wheel, on a model repository that NVIDIA's containers run too."""

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

from sagelift.stack.components import triton_home
from sagelift.stack.errors import MissingComponentError, ModelError, PortError, StartCancelled, StartError
from sagelift.stack.ports import LOOPBACK, is_free, pick_ports, require_free
from sagelift.stack.process import ManagedProcess, remove_shared_memory
from sagelift.stack.server import ManagedServer

_START_ATTEMPTS = 3  # with other ports, when a free one was lost to another program in between
_LOAD_TIMEOUT_S = 180.0  # a model that imports torch and compiles takes its time on a busy machine
_SHM_MB = 64  # per model instance, and the step in which it grows; the default of 1 MB grows in the hot path
_STUB_TIMEOUT_S = 120  # by default a stub has 30 s to import its model; torch on a busy machine needs more
_PARALLEL_LOADS = 2
_STUB = "triton_python_backend_stub"


class TritonServer(ManagedServer):
    """`with TritonServer(folder, cache, repository) as triton: ... triton.grpc`

    `folder` keeps log and launch files, `cache` must hold the wheel (`components.fetch_triton`), `repository` is the
    model repository; it may be empty. Models are loaded explicitly: those present at a start by the start, later
    ones by `load`. gRPC and metrics only, on loopback; ports that are not given are picked and kept for restarts.
    `extra_probe(address)` is part of `healthy`: a real inference with a known answer finds a stub that hangs, which
    nothing else shows. A `kill` is quick where a graceful stop waits for a stub that died until its deadline.
    `arguments` are further ones of tritonserver's; `credentials` (of gRPC) are what it takes to call it when they make
    it speak TLS.
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
        # The same for every server of this folder: what a killed one left in /dev/shm is removed by the next.
        self.shm_prefix = f"sagelift_{hashlib.sha256(str(self.folder).encode()).hexdigest()[:10]}_"
        self.model_errors: dict[str, ModelError] = {}
        """By model: why the last start could not load it."""

    @property
    def grpc(self) -> str:
        """host:port for gRPC clients. Raises StartError before the first start, which picks the port."""
        return self._address(self.grpc_port)

    @property
    def metrics(self) -> str:
        """host:port of http://.../metrics (Prometheus)."""
        return self._address(self.metrics_port)

    @property
    def address(self) -> str | None:
        return None if self.grpc_port is None else self.grpc

    def start(self, cancelled: threading.Event | None = None, *, strict: bool = True) -> Self:
        """Returns when the server is live and every model in the repository is loaded (1 s, and the models' own time).

        Raises PortError for a configured port that is taken, MissingComponentError, StartError, and ModelError, which
        names the model and Triton's reason. With `strict=False` a model that cannot be loaded does not keep the others
        from serving: `model_errors` tells.
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
        """As `start`, but serves what can be loaded; returns why the rest could not."""
        self.start(cancelled, strict=False)
        return "; ".join(map(str, self.model_errors.values())) or None

    def load(self, model: str) -> None:
        """Loads a model, or its new version or configuration. Raises ModelError with Triton's reason."""
        load_model(self.grpc, model, self._credentials)

    def unload(self, model: str) -> None:
        """Raises ModelError. A model that is not loaded is not an error."""
        unload_model(self.grpc, model, self._credentials)

    def healthy(self, timeout: float = 3.0) -> bool:
        """Whether the server is live and none of its models' Python processes has died.

        Triton does not restart a stub that died and goes on calling its model ready, while every request to it fails.
        Server *ready* is not asked: it turns false when a new version cannot be loaded while the old one serves well.
        """
        if self.grpc_port is None or not probe(self.grpc, timeout, self._credentials) or self._has_dead_stub():
            return False
        return self._extra_probe is None or self._extra_probe(self.grpc)

    def models(self) -> list[str]:
        """Names of the models in the repository (folders with a numbered version), sorted."""
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
        kept = self.grpc_port is not None and self.metrics_port is not None
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
                if kept:
                    require_free(lost[0], "Triton")
                if attempt == _START_ATTEMPTS:
                    raise PortError(f"Triton found its port taken {attempt} times in a row: {error}") from error
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
                    self.kill()  # ends the loads that are under way
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
            return False  # the server itself ended: another check sees that

    def _link_backends(self, home: Path) -> Path:
        """A backend folder as tritonserver wants it, with the stub for this Python's version: links into the wheel."""
        server = home / "pytriton" / "tritonserver"
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        stub = server / "python_backend_stubs" / version / _STUB
        if not stub.is_file():
            known = sorted(p.name for p in (server / "python_backend_stubs").iterdir())
            raise MissingComponentError(
                f"Triton's wheel has no Python backend for Python {version} (only for {', '.join(known)}): use one "
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
            "--allow-http=false",  # gRPC does all of it; one door less for what else runs on this machine
            f"--grpc-address={LOOPBACK}",  # the defaults are 0.0.0.0
            f"--grpc-port={grpc_port}",
            f"--metrics-address={LOOPBACK}",
            f"--metrics-port={metrics_port}",
            "--disable-auto-complete-config",  # a model's configuration is what its file says
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
    """Whether a Triton server at host:port is live."""
    from tritonclient.utils import InferenceServerException

    try:
        with _client(address, credentials) as client:
            return bool(client.is_server_live(client_timeout=timeout))
    except InferenceServerException:
        return False


def load_model(address: str, model: str, credentials: Any = None) -> None:
    """Makes the Triton server at host:port load a model. Raises ModelError with Triton's reason."""
    with _client(address, credentials) as client, _model_errors("load", model):
        client.load_model(model, client_timeout=_LOAD_TIMEOUT_S)


def unload_model(address: str, model: str, credentials: Any = None) -> None:
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
        # The first line says it; the others are a Python traceback, which the log has too.
        reason = str(error.message()).strip().splitlines()[0].rstrip("; ")
        raise ModelError(f"Triton could not {verb} model {model!r}: {reason}") from error


def _environment(home: Path) -> dict[str, str]:
    def joined(first: list[str], name: str) -> str:
        return os.pathsep.join([*first, *filter(None, [os.environ.get(name)])])

    libraries = [str(home / "nvidia_pytriton.libs"), str(sysconfig.get_config_var("LIBDIR"))]
    return {
        **os.environ,
        # The stub embeds the Python that it finds first on PATH: our virtual environment's.
        "PATH": joined([str(Path(sys.executable).parent)], "PATH"),
        "LD_LIBRARY_PATH": joined(libraries, "LD_LIBRARY_PATH"),
        "PYTHONUNBUFFERED": "1",  # what a model prints reaches the log before it crashes
    }

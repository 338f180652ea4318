"""How a service's configs stay fresh: a thread that loads them, and a file that keeps the last good ones.

The file lets a service start while the store is away. It is written aside and renamed, states its schema and the
SHA-256 of its content, and is refused when either does not fit.
"""

import hashlib
import os
import random
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from experiments.config import PublishedExperiment
from experiments.errors import ConfigError

FILE_SCHEMA: Final = 1
_JITTER: Final = 0.1  # of the interval: replicas that were started together must not ask the store together


class _File(msgspec.Struct):
    schema: int
    saved_at: int  # microseconds UTC
    sha256: str  # of `experiments` as it stands
    experiments: msgspec.Raw


class _Schema(msgspec.Struct):
    schema: int


def save_configs(path: Path, published: Sequence[PublishedExperiment], saved_at: int) -> None:
    """Writes the file as a whole or not at all, readable by its owner only (overrides name units). Raises OSError."""
    content = msgspec.json.encode(list(published))
    file = _File(FILE_SCHEMA, saved_at, hashlib.sha256(content).hexdigest(), msgspec.Raw(content))
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=path.name + ".")  # created with mode 0600
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(msgspec.json.encode(file))
            out.flush()
            os.fsync(out.fileno())
        Path(aside).replace(path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise


def read_configs(path: Path) -> tuple[list[PublishedExperiment], int]:
    """The file's experiments, and when they were saved. Raises ConfigError when it is of a newer schema or damaged,
    OSError when it cannot be read.
    """
    text = path.read_bytes()
    try:
        if (schema := msgspec.json.decode(text, type=_Schema).schema) > FILE_SCHEMA:
            raise ConfigError(
                f"{path} has schema {schema}, and this program reads {FILE_SCHEMA}: upgrade it, or delete the file."
            )
        file = msgspec.json.decode(text, type=_File)
        if hashlib.sha256(file.experiments).hexdigest() != file.sha256:
            raise ConfigError(f"{path} is damaged (its SHA-256 differs): delete it, the store has the configs.")
        return msgspec.json.decode(file.experiments, type=list[PublishedExperiment]), file.saved_at
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path} is not a file of configs ({error}): delete it, the store has them.") from error


class Refresher:
    """Calls `refresh` in a thread of its own: at once, then every `interval_s`, and whenever it is woken.

    `refresh` must not raise. `loaded` is set when it has first returned True.
    """

    def __init__(self, refresh: Callable[[], bool], interval_s: float) -> None:
        self._refresh = refresh
        self._interval_s = interval_s
        self._woken = threading.Event()
        self._closed = False
        self.loaded = threading.Event()
        # A daemon: a load that hangs for ever must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="config-refresher", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Asks for a refresh now; returns at once, and may be called from any thread."""
        self._woken.set()

    def close(self, timeout_s: float) -> None:
        """Ends the thread; waits for it no longer than the timeout."""
        self._closed = True
        self._woken.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._closed:
            self._woken.clear()  # before the load: what is published during it is loaded next
            if self._refresh():
                self.loaded.set()
            if not self._closed:
                self._woken.wait(self._interval_s * random.uniform(1 - _JITTER, 1 + _JITTER))

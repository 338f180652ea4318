"""Any further command that belongs to the stack: the catalogue consumer, the event sink."""

import os
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sagelift.stack.process import ManagedProcess


@dataclass(frozen=True)
class WorkerSpec:
    """`name` is letters, digits and hyphens (it names the log file); `env` is added to this process's environment."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9-]+", self.name):
            raise ValueError(f"worker name {self.name!r} must be letters, digits and hyphens only")
        if not self.argv:
            raise ValueError(f"worker {self.name!r} has no command: argv is empty")


class Worker:
    """A worker counts as ready once it was executed; one that ends, with whatever code, is started again."""

    address: str | None = None

    def __init__(self, spec: WorkerSpec, folder: Path) -> None:
        self._process = ManagedProcess(
            spec.name, spec.argv, log=folder / f"{spec.name}.log", env={**os.environ, **spec.env}
        )

    @property
    def log(self) -> Path:
        return self._process.log

    @property
    def alive(self) -> bool:
        return self._process.alive

    @property
    def pid(self) -> int | None:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        return self._process.exit_code

    def start(self, cancelled: threading.Event | None = None) -> None:
        self._process.start(cancelled)

    def revive(self, cancelled: threading.Event) -> str | None:
        self._process.start(cancelled)
        return None

    def stop(self) -> None:
        self._process.stop()

    def kill(self) -> None:
        self._process.kill()

    def healthy(self) -> bool:
        return self._process.alive

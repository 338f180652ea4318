"""Any further command that belongs to the stack: the catalogue consumer, the event sink."""

import os
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from sagelift.stack.process import ManagedProcess
from sagelift.stack.server import ManagedServer


@dataclass(frozen=True)
class WorkerSpec:
    """`name` is letters, digits and hyphens (it names the log file); `env` is added to this process's environment.

    `env` may hold secrets: it is never printed.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9-]+", self.name):
            raise ValueError(f"worker name {self.name!r} must be letters, digits and hyphens only")
        if not self.argv:
            raise ValueError(f"worker {self.name!r} has no command: argv is empty")


class Worker(ManagedServer):
    """A worker counts as ready once it was executed; one that ends, with whatever code, is started again."""

    address: str | None = None

    def __init__(self, spec: WorkerSpec, folder: Path) -> None:
        super().__init__(folder, f"{spec.name}.log")
        self._process = self._command = ManagedProcess(
            spec.name, spec.argv, log=self.log, env={**os.environ, **spec.env}
        )

    def start(self, cancelled: threading.Event | None = None) -> Self:
        self._command.start(cancelled)
        return self

    def healthy(self) -> bool:
        return self.alive

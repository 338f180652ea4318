"""Any further command that belongs to the stack: the catalogue consumer, the event sink."""

import os
import re
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from sagelift.stack.process import ManagedProcess
from sagelift.stack.server import ManagedServer
from sagelift.stack.worker_records import WorkerRecord, read_record

_LAST_WORDS = 1_000


@dataclass(frozen=True)
class WorkerSpec:
    """`name` is letters, digits and hyphens (it names the log file); `env` is added to this process's environment.

    `env` may hold secrets: it is never printed. `final` are exit codes after which starting it again would not help.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    final: Collection[int] = ()

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9-]+", self.name):
            raise ValueError(f"worker name {self.name!r} must be letters, digits and hyphens only")
        if not self.argv:
            raise ValueError(f"worker {self.name!r} has no command: argv is empty")


class Worker(ManagedServer):
    """A worker counts as ready once it was executed; one that ends is started again, unless its code is final."""

    def __init__(self, spec: WorkerSpec, folder: Path) -> None:
        super().__init__(folder, f"{spec.name}.log")
        self._spec = spec
        self._process = self._command = ManagedProcess(
            spec.name, spec.argv, log=self.log, env={**os.environ, **spec.env}
        )

    @property
    def address(self) -> str | None:
        """host:port of its metrics and health; None before it has told, and of a command that has none."""
        record = self._record()
        return None if record is None or record.ended else record.url.removeprefix("http://")

    @property
    def verdict(self) -> str | None:
        """Why it ended, in its own words, when that was with a final exit code."""
        if self.exit_code not in self._spec.final:
            return None
        if (record := self._record()) is not None and record.ended:
            return ": ".join(record.ended)
        lines = [line.strip() for line in self._command.output().splitlines() if line.strip()]
        return lines[-1][:_LAST_WORDS] if lines else f"ended with exit code {self.exit_code}"

    def start(self, cancelled: threading.Event | None = None) -> Self:
        self._command.start(cancelled)
        return self

    def _record(self) -> WorkerRecord | None:
        return read_record(self.folder, self._spec.name, self.pid) if self.pid else None

    def healthy(self) -> bool:
        return self.alive

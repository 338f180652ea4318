"""Workers: other commands that run in the stack, such as the catalogue consumer and the event sink."""

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

_LONGEST_REASON = 1_000  # characters


@dataclass(frozen=True)
class WorkerSpec:
    """The command of a worker.

    Attributes:
        name: Letters, digits and hyphens; also the name of the log file.
        argv: The command line.
        env: Variables that are added to this process's environment. They may hold secrets and are never printed.
        final: Exit codes after which a restart would not help.
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
    """A worker process. It is ready as soon as it runs, and restarted unless its exit code is final."""

    def __init__(self, spec: WorkerSpec, folder: Path) -> None:
        super().__init__(folder, f"{spec.name}.log")
        self._spec = spec
        self._process = self._command = ManagedProcess(
            spec.name, spec.argv, log=self.log, env={**os.environ, **spec.env}
        )

    @property
    def address(self) -> str | None:
        """host:port of the worker's metrics and health, from its record; None without a record."""
        record = self._record()
        return None if record is None or record.ended else record.url.removeprefix("http://")

    @property
    def fatal_reason(self) -> str | None:
        """Why the worker ended with a final exit code: from its record, else the last line of its log."""
        if self.exit_code not in self._spec.final:
            return None
        if (record := self._record()) is not None and record.ended:
            return ": ".join(record.ended)
        lines = [line.strip() for line in self._command.output().splitlines() if line.strip()]
        return lines[-1][:_LONGEST_REASON] if lines else f"ended with exit code {self.exit_code}"

    def start(self, cancelled: threading.Event | None = None) -> Self:
        """Start the command."""
        self._command.start(cancelled)
        return self

    def healthy(self) -> bool:
        """Return whether the process runs."""
        return self.alive

    def _record(self) -> WorkerRecord | None:
        return read_record(self.folder, self._spec.name, self.pid) if self.pid else None

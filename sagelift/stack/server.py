"""The base class of all supervised servers: one process, one log, one address."""

import threading
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Self

from sagelift.stack.process import ManagedProcess


class ManagedServer(ABC):
    """A server in a child process. As a context manager it starts and stops.

    A subclass implements `start`, which sets `_process` and returns when the server is ready.

    Attributes:
        folder: Absolute path of the folder for the log and the server's files.
    """

    def __init__(self, folder: Path, log_name: str) -> None:
        self.folder = folder.expanduser().resolve()
        self._log = self.folder / log_name
        self._process: ManagedProcess | None = None

    @property
    @abstractmethod
    def address(self) -> str | None:
        """host:port for clients; None before the first start, and for a server without clients."""

    @abstractmethod
    def start(self, cancelled: threading.Event | None = None) -> Self:
        """Start the server and wait until it is ready; setting `cancelled` aborts the start."""

    @abstractmethod
    def healthy(self) -> bool:
        """Return whether the server works; called periodically while it runs."""

    @property
    def log(self) -> Path:
        """Path of the log file."""
        return self._log

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.alive

    @property
    def pid(self) -> int | None:
        """Process id of the server; None if it does not run."""
        return None if self._process is None else self._process.pid

    @property
    def fatal_reason(self) -> str | None:
        """Why the server ended, if a restart would not help; else None."""
        return None

    @property
    def exit_code(self) -> int | None:
        """Exit code of the ended process; None if it runs or never ran."""
        return None if self._process is None else self._process.exit_code

    def stop(self) -> None:
        """Stop the server; does nothing if it does not run."""
        if self._process is not None:
            self._process.stop()

    def kill(self) -> None:
        """Kill a server that hangs, with SIGKILL."""
        if self._process is not None:
            self._process.kill()

    def restart(self, cancelled: threading.Event | None = None) -> None:
        """Stop the server and start it on the same ports with the same data."""
        self.stop()
        self.start(cancelled)

    def revive(self, cancelled: threading.Event) -> str | None:
        """Start the server again after a failure; return a complaint if it runs with limits, else None."""
        self.start(cancelled)
        return None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

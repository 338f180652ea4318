"""What every supervised server has in common: one process, one log, and how both are asked and ended."""

import threading
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Self

from sagelift.stack.process import ManagedProcess


class ManagedServer(ABC):
    """A server in a process of ours; `start` makes `_process` and returns when it is ready. A context manager."""

    def __init__(self, folder: Path, log_name: str) -> None:
        self.folder = folder.expanduser().resolve()
        self._log = self.folder / log_name
        self._process: ManagedProcess | None = None

    @property
    @abstractmethod
    def address(self) -> str | None:
        """host:port for clients; None before the first start, and for what nobody calls."""

    @abstractmethod
    def start(self, cancelled: threading.Event | None = None) -> Self: ...

    @abstractmethod
    def healthy(self) -> bool:
        """Whether it still does its work; asked again and again while it runs."""

    @property
    def log(self) -> Path:
        return self._log

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.alive

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @property
    def verdict(self) -> str | None:
        """Why it ended, when starting it again would not help; None: try."""
        return None

    @property
    def exit_code(self) -> int | None:
        return None if self._process is None else self._process.exit_code

    def stop(self) -> None:
        if self._process is not None:
            self._process.stop()

    def kill(self) -> None:
        """SIGKILL, for one that hangs."""
        if self._process is not None:
            self._process.kill()

    def restart(self, cancelled: threading.Event | None = None) -> None:
        """On the same ports, with the same data."""
        self.stop()
        self.start(cancelled)

    def revive(self, cancelled: threading.Event) -> str | None:
        """Starts it again where it was; returns what is wrong though it runs, if anything is."""
        self.start(cancelled)
        return None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

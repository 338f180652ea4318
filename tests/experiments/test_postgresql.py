"""PostgreSQL agrees with the vector file and forbids what SQLite forbids. Needs its programs, no driver."""

import json
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_mock_engine
from sqlalchemy.dialects import postgresql

from experiments import kernel, tables
from experiments.config import ExperimentConfig

VECTORS = json.loads((Path(__file__).parent / "assignment_vectors.json").read_text("ascii"))
Psql = Callable[[str], subprocess.CompletedProcess[str]]

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(
        not all(map(shutil.which, ("initdb", "pg_ctl", "psql"))), reason="PostgreSQL's programs are not installed"
    ),
]


@pytest.fixture(scope="module")
def psql() -> Iterator[Psql]:
    """A server of its own on a Unix socket in a folder of its own; no port."""
    # Not below pytest's folder: a socket's path is short, and the server (which refuses to be root) must reach it.
    home = Path(tempfile.mkdtemp(prefix="pg-"))
    user = None
    if os.geteuid() == 0:
        user = "nobody"
        os.chown(home, pwd.getpwnam(user).pw_uid, -1)

    def run(*command: str, text: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, input=text, capture_output=True, text=True, encoding="utf-8", check=check, user=user, cwd=home
        )

    data, log = str(home / "data"), str(home / "log")
    try:
        run("initdb", "-D", data, "-A", "trust", "-U", "pg", "--encoding", "UTF8", "--locale", "C", "--no-sync")
        options = f"-c listen_addresses= -c unix_socket_directories={home} -c fsync=off"
        # The server must not inherit our pipes, or reading them would wait for its end.
        subprocess.run(
            ["pg_ctl", "-D", data, "-l", log, "-w", "-o", options, "start"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True, user=user, cwd=home,
        )  # fmt: skip
        yield lambda text: run(
            "psql",
            "-h",
            str(home),
            "-U",
            "pg",
            "-d",
            "postgres",
            "-XqAt",
            "-v",
            "ON_ERROR_STOP=1",
            text=text,
            check=False,
        )
        run("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(home)


def literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def test_postgresql_gives_the_draws_of_the_vector_file(psql: Psql) -> None:
    draws = [draw for draw in VECTORS["draws"] if draw["gate"] is not None and "\0" not in draw["unit"]]
    statements = []
    for draw in draws:
        gate, split = (
            kernel.bucket_sql("postgresql", which, salt=draw["salt"], unit=literal(draw["unit"]))
            for which in ("gate", "split")
        )
        statements.append(f"select {gate}, {split};")
    result = psql("\n".join(statements))
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == [f"{draw['gate']}|{draw['split']}" for draw in draws]


def test_postgresql_refuses_to_change_or_delete_a_record(psql: Psql, config: ExperimentConfig) -> None:
    ddl: list[str] = []
    engine = create_mock_engine(
        "postgresql://", lambda statement, *_, **__: ddl.append(str(statement.compile(dialect=postgresql.dialect())))
    )
    tables.metadata.create_all(engine, checkfirst=False)
    version = (
        f"({literal(config.key)}, %d, {literal(config.canonical_json().decode())}, '{config.sha256()}', 's', 1, 'ada')"
    )
    setup = [
        *ddl,
        "insert into experiment values ('ranking', 1, 'ada')",
        "insert into experiment_version values " + version % 1,
        "insert into transition values ('ranking', 1, 'draft', null, null, 1, 'ada', '')",
    ]
    result = psql(";\n".join(setup) + ";")
    assert result.returncode == 0, result.stderr
    refused = {
        "update experiment_version set salt = 'x'": "append-only",
        "delete from experiment_version": "append-only",
        "truncate experiment_version cascade": "append-only",
        "update transition set actor = 'x'": "append-only",
        "delete from transition": "append-only",
        "truncate transition": "append-only",
        "insert into experiment_version values " + version.replace("5000", "5001") % 2: "must sum to 10000",
        "insert into transition values ('ranking', 2, 'paused', 9, null, 1, 'ada', '')": "foreign key",
    }
    for statement, reason in refused.items():
        result = psql(statement + ";")
        assert result.returncode != 0, f"taken: {statement}"
        assert reason in result.stderr
    assert psql("select count(*) from experiment_version; select count(*) from transition;").stdout.split() == [
        "1",
        "1",
    ]

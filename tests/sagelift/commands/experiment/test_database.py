"""`sagelift experiment migrate | openapi`: revisions of the database, and the document of the REST interface."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from sqlalchemy import create_engine, text

from experiments.tables import REVISION, REVISION_TABLE
from tests.sagelift.commands.experiment.commands import run


def test_a_migration_prints_the_revision_before_and_after(state: Path) -> None:
    assert run("migrate").stdout == f"revision {REVISION}, was none\n"
    assert run("migrate").stdout == f"revision {REVISION}\n"
    assert run("list").exit_code == 0
    assert run("migrate", "--revision", "base").stdout == f"revision none, was {REVISION}\n"
    assert run("migrate").stdout == f"revision {REVISION}, was none\n"


def test_a_database_behind_its_migrations_names_the_command_that_helps(state: Path) -> None:
    run("migrate")
    engine = create_engine(f"sqlite:///{state / 'state' / 'experiments.db'}")
    with engine.begin() as connection:
        connection.execute(text(f"update {REVISION_TABLE} set version_num = '0000'"))
    engine.dispose()
    done = subprocess.run([sys.executable, "-m", "sagelift", "experiment", "list"], capture_output=True, text=True)
    assert done.returncode == 3
    assert f"revision 0000, this program needs {REVISION}: run `sagelift experiment migrate`" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_document_of_the_interface_describes_assignments() -> None:
    document = json.loads(run("openapi").stdout)
    assert document["openapi"].startswith("3.")
    assert "/v1/assignments/{key}" in document["paths"]

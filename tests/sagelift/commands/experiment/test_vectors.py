"""`sagelift vectors`: the file as it is, and whether every implementation agrees with it."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner, Result

from experiments import assignment_vectors
from sagelift.commands.cli import app


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def test_every_implementation_at_hand_agrees_with_the_vectors() -> None:
    done = run("vectors", "--check", "--json")
    assert done.exit_code == 0, done.output
    by_implementation = {row["implementation"]: row for row in json.loads(done.stdout)}
    assert {"scalar", "column", "SQLite", "DuckDB", "evaluator", "bulk", "PostgreSQL"} <= set(by_implementation)
    assert all(row["checked"] > 0 or row["absent"] for row in by_implementation.values())
    assert by_implementation["PostgreSQL"]["absent"] == "no PostgreSQL database was named"


def test_a_disagreement_is_named_and_the_exit_code_is_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = assignment_vectors.load()
    wrong = msgspec.structs.replace(vectors.draws[0], gate=vectors.draws[0].gate + 1)
    changed = msgspec.structs.replace(vectors, draws=(wrong,), cases=())
    monkeypatch.setattr(assignment_vectors, "load", lambda: changed)
    done = run("vectors", "--check")
    assert done.exit_code == 1
    assert "WRONG" in done.stdout
    assert f"scalar: sha256 salt {wrong.salt!r}" in done.stderr


def test_the_file_is_printed_as_it_is() -> None:
    assert run("vectors").stdout == assignment_vectors.FILE.read_text("ascii")


@pytest.mark.parametrize("url", ["sqlite://", "postgresql+psycopg://nobody@127.0.0.1:1/none", "no url"])
def test_a_database_that_is_no_postgresql_is_a_usage_error(url: str) -> None:
    done = run("vectors", "--check", "--database", url)
    assert done.exit_code == 2
    assert "--database" in done.stderr

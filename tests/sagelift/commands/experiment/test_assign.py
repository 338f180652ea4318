"""`sagelift assign` with attributes and reasons, `sagelift vectors --check`."""

import json
from pathlib import Path

import msgspec
import pytest
import typer
from sqlalchemy import create_engine
from typer.testing import CliRunner, Result

from experiments import conformance
from experiments.config import Arm, ExperimentConfig
from experiments.errors import UnknownExperimentError
from experiments.store import ExperimentStore
from sagelift.commands.experiment import assign as assign_commands

APP = typer.Typer()
APP.command()(assign_commands.assign)
APP.command()(assign_commands.vectors)

CONFIG = ExperimentConfig(
    key="local",
    salt="local-1",
    coverage=10_000,
    targeting='country == "DE" && age >= 18',
    arms=(Arm("a", 5_000), Arm("b", 5_000)),
    control="a",
)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(APP, arguments)


@pytest.fixture
def _published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path / 'experiments.db'}"
    monkeypatch.setenv("SAGELIFT_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("SAGELIFT_EXPERIMENTS__DATABASE_URL", url)
    engine = create_engine(url)
    store = ExperimentStore(engine)
    store.create_all()
    store.publish(CONFIG, actor="ada", create=True)
    store.start("local", actor="ada", reason="test")
    engine.dispose()


@pytest.mark.usefixtures("_published")
def test_attributes_are_read_as_json_and_bare_words_as_text() -> None:
    done = run("assign", "u1", "--experiment", "local", "--attribute", "country=DE", "--attribute", "age=18", "--json")
    decision = json.loads(done.stdout)
    assert (decision["reason"], decision["enrolled"]) == ("assigned", True)
    for attributes, reason in (
        (["country=FR", "age=18"], "not_targeted"),
        (["country=DE"], "attribute_missing"),
        (["country=DE", 'age="18"'], "targeting_failed"),
        (["country=DE", "age=true"], "targeting_failed"),
    ):
        options = [part for each in attributes for part in ("--attribute", each)]
        done = run("assign", "u1", "--experiment", "local", *options)
        assert done.stdout == f"a (not enrolled: {reason})\n"


@pytest.mark.usefixtures("_published")
def test_an_explanation_prints_every_step_to_the_one_that_decided() -> None:
    done = run("assign", "u1", "--experiment", "local", "--attribute", "country=FR", "--explain")
    assert done.stdout.splitlines() == [
        "a (not enrolled: not_targeted)",
        "  + state: running",
        "  + unit: 2 bytes",
        '  - targeting: country == "DE" && age >= 18: not_targeted',
    ]


@pytest.mark.usefixtures("_published")
def test_bad_input_is_told() -> None:
    assert "is not NAME=VALUE" in run("assign", "u", "--experiment", "local", "--attribute", "country").stderr
    assert run("assign", "u", "--experiment", "local", "--attribute", "=1").exit_code == 2
    assert isinstance(run("assign", "u", "--experiment", "other").exception, UnknownExperimentError)


def test_every_implementation_at_hand_agrees_with_the_vectors() -> None:
    done = run("vectors", "--check", "--json")
    assert done.exit_code == 0, done.output
    told = {row["implementation"]: row for row in json.loads(done.stdout)}
    assert {"scalar", "column", "SQLite", "DuckDB", "evaluator", "bulk", "PostgreSQL"} <= set(told)
    assert all(row["checked"] > 0 or row["absent"] for row in told.values())
    assert told["PostgreSQL"]["absent"] == "no PostgreSQL database was named"


def test_a_disagreement_is_named_and_the_exit_code_is_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = conformance.load()
    wrong = msgspec.structs.replace(vectors.draws[0], gate=vectors.draws[0].gate + 1)
    changed = msgspec.structs.replace(vectors, draws=(wrong,), cases=())
    monkeypatch.setattr(conformance, "load", lambda: changed)
    done = run("vectors", "--check")
    assert done.exit_code == 1
    assert "WRONG" in done.stdout
    assert f"scalar: sha256 salt {wrong.salt!r}" in done.stderr


def test_the_file_is_printed_as_it_is() -> None:
    assert run("vectors").stdout == conformance.FILE.read_text("ascii")


@pytest.mark.parametrize("url", ["sqlite://", "postgresql+psycopg://nobody@127.0.0.1:1/none", "no url"])
def test_a_database_that_is_no_postgresql_is_a_usage_error(url: str) -> None:
    done = run("vectors", "--check", "--database", url)
    assert done.exit_code == 2
    assert "--database" in done.stderr

"""`sagelift assign`: attributes, reasons, explanations."""

import json
from pathlib import Path

import pytest
import typer
from sqlalchemy import create_engine
from typer.testing import CliRunner, Result

from experiments.config import Arm, ExperimentConfig
from experiments.errors import UnknownExperimentError
from experiments.store import ExperimentStore
from sagelift.commands.experiment.assign import assign

APP = typer.Typer()
APP.command()(assign)


@APP.callback()
def _app() -> None: ...


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
    assignment = json.loads(done.stdout)
    assert (assignment["reason"], assignment["enrolled"]) == ("assigned", True)
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
def test_bad_input_is_refused() -> None:
    assert "is not NAME=VALUE" in run("assign", "u", "--experiment", "local", "--attribute", "country").stderr
    assert run("assign", "u", "--experiment", "local", "--attribute", "=1").exit_code == 2
    assert isinstance(run("assign", "u", "--experiment", "other").exception, UnknownExperimentError)

"""`sagelift status` and `down` without a stack, and how a running stack is printed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from sagelift.commands.cli import app
from sagelift.stack.status import ComponentStatus, StackStatus


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAGELIFT_STATE_DIR", str(tmp_path))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def test_without_a_stack_the_status_is_exit_code_1() -> None:
    done = run("status")
    assert (done.exit_code, done.stdout) == (1, "No local stack is running.\n")
    assert json.loads(run("status", "--json").stdout)["healthy"] is False


def test_stopping_a_stack_that_does_not_run_is_fine() -> None:
    done = run("down")
    assert (done.exit_code, done.stderr) == (0, "No local stack was running.\n")


def test_the_status_has_a_line_for_each_component(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = ComponentStatus("kafka", "ready", "127.0.0.1:9092", pid=2, restarts=0, log="kafka.log")
    consumer = ComponentStatus("catalog", "failed", restarts=3, last_error="exit code 1")
    stack = StackStatus(running=True, pid=1, components=(broker, consumer))
    monkeypatch.setattr("sagelift.stack.status.read_status", lambda state: stack)
    done = run("status")
    assert done.exit_code == 1
    heading, kafka, catalog = done.stdout.splitlines()
    assert heading == "running, pid 1"
    assert kafka.split() == ["kafka", "ready", "127.0.0.1:9092", "restarts", "0", "log", "kafka.log"]
    assert catalog.endswith("last error: exit code 1")


def test_a_stack_whose_supervisor_was_killed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sagelift.stack.status.read_status", lambda state: StackStatus(running=False, pid=1))
    assert run("status").stdout == "No local stack is running (its supervisor was killed).\n"

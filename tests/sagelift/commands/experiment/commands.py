"""Runs the commands below `sagelift experiment` in tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from typer.testing import CliRunner, Result

from sagelift.commands.experiment.app import app

CONFIG: dict[str, Any] = {
    "key": "ranking",
    "salt": "ranking-1",
    "coverage": 100,
    "control": "control",
    "arms": [{"key": "control", "weight": 5_000}, {"key": "treatment", "weight": 5_000}],
}
WHO = ("--actor", "ada", "--reason", "test")


def run(*arguments: object, stdin: str | None = None) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)


def output(*arguments: object) -> Any:
    """Run a command with --json, and return what it prints."""
    done = run(*arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def write(path: Path, **changes: Any) -> Path:
    """Write the file of an experiment with some fields changed."""
    path.write_text(yaml.safe_dump(CONFIG | changes), encoding="utf-8")
    return path

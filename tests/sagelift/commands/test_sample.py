"""`sagelift sample users`: the file and the command that it names give an informative report."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from sagelift.commands.cli import app
from sagelift.commands.sample import next_command
from sagelift.sample_users import LIFT
from tests.sagelift.commands.analysis_commands import reports_of


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def test_the_next_command_reports_the_planted_lift(tmp_path: Path) -> None:
    path = tmp_path / "my users.parquet"
    done = run("sample", "users", str(path))
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{path}\n"
    assert done.stderr == f"next: {next_command(path)}\n"
    program, *arguments = shlex.split(next_command(path))
    assert program == "sagelift"
    analyzed = run(*arguments, "--json")
    assert analyzed.exit_code == 0, analyzed.output
    report = reports_of(analyzed)[0]
    gmv = report.metric("gmv")
    assert gmv.low is not None
    assert gmv.high is not None
    assert 0 < gmv.low < LIFT < gmv.high
    assert all(check.status == "ok" for check in report.checks), report.checks
    assert report.data.segment == "country"


@pytest.mark.parametrize(("option", "value"), [("--users", "99"), ("--seed", "-1")])
def test_wrong_options_are_named(tmp_path: Path, option: str, value: str) -> None:
    done = run("sample", "users", str(tmp_path / "u.parquet"), option, value)
    assert done.exit_code == 2
    assert option in done.output


def test_the_help_names_the_next_command() -> None:
    assert "Next: sagelift analyze PATH" in run("sample", "users", "--help").stdout

"""Runs the commands of the analysis in tests."""

from __future__ import annotations

import msgspec
from click.testing import Result
from typer.testing import CliRunner

from analysis.results import Report
from sagelift.commands.cli import app
from sagelift.commands.failures import explain


def run(*arguments: object) -> Result:
    """Run `sagelift` in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def reports_of(result: Result) -> list[Report]:
    """The reports that `--json` printed: always a list, also of one."""
    return msgspec.json.decode(result.stdout, type=list[Report])


def message_of(result: Result) -> str:
    """The output, or the sentence of a failure, without the frame and the line breaks of the terminal."""
    failure = _failure(result)
    return " ".join((failure[0] if failure else result.output).replace("│", " ").split())


def exit_code(result: Result) -> int:
    """The exit code with which `sagelift` ends."""
    failure = _failure(result)
    return failure[1] if failure else result.exit_code


def _failure(result: Result) -> tuple[str, int] | None:
    """What `sagelift.commands.cli.main` makes of an exception; a defect of the program is raised again."""
    if not isinstance(result.exception, Exception) or isinstance(result.exception, SystemExit):
        return None
    failure = explain(result.exception)
    if failure is None:
        raise result.exception
    return failure

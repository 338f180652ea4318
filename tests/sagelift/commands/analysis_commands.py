"""Runs the commands of the analysis in tests."""

from __future__ import annotations

from click.testing import Result
from typer.testing import CliRunner

from sagelift.commands.cli import app


def run(*arguments: object) -> Result:
    """Run `sagelift` in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def message_of(result: Result) -> str:
    """The output without the frame and the line breaks of the terminal."""
    return " ".join(result.output.replace("│", " ").split())

"""The `sagelift` command: assembles the commands of this package and reports their failures.

Data goes to stdout, progress and messages go to stderr. No command imports a heavy library before it needs it.
Exit codes: see `sagelift.commands.failures`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, NoReturn

import typer

from sagelift.commands import (
    analyze,
    catalog,
    demo,
    dlq,
    features,
    model,
    plan,
    report,
    sample,
    serve,
    settings,
    stream,
    up,
)
from sagelift.commands.console import say
from sagelift.commands.experiment import app as experiment
from sagelift.commands.experiment import assign, vectors
from sagelift.commands.failures import explain
from sagelift.commands.option_order import OrderedCommand

app = typer.Typer(
    help="Product embeddings that follow the catalogue within a second, and experiments that measure their effect.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

_COMMANDS: dict[str, tuple[Callable[..., None], ...]] = {
    "Installation": (up.up, up.status, up.down, up.fetch, settings.settings, demo.demo),
    "Analysis": (analyze.analyze, report.report, plan.plan, analyze.simulate),
    "Experiments": (assign.assign, vectors.vectors),
}
_GROUPS = {
    "Analysis": {"sample": sample.app},
    "Experiments": {"experiment": experiment.app, "serve": serve.app},
    "Catalogue and embeddings": {
        "catalog": catalog.app,
        "stream": stream.app,
        "dlq": dlq.app,
        "features": features.app,
        "model": model.app,
    },
}
for panel, commands in _COMMANDS.items():
    for command in commands:
        app.command(cls=OrderedCommand, rich_help_panel=panel)(command)
for panel, groups in _GROUPS.items():
    for name, group in groups.items():
        app.add_typer(group, name=name, rich_help_panel=panel)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        from importlib.metadata import version as installed_version

        typer.echo(installed_version("sagelift"))
        raise typer.Exit


def main() -> NoReturn:
    """Run the command. An expected failure is one sentence on stderr, never a traceback."""
    try:
        app()  # exits, also after wrong usage, `typer.Exit` and Ctrl-C
    except BrokenPipeError:  # the reader of our output has closed the pipe
        sys.stderr.close()
        sys.exit(0)
    except Exception as error:
        failure = explain(error)
        if failure is None:
            raise
        sentence, code = failure
        say(f"sagelift: {sentence}")
        sys.exit(code)
    raise AssertionError("app() always exits")

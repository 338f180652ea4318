"""`sagelift vectors`: whether every implementation of the assignment agrees with the conformance vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from sagelift.commands.console import AsJson, print_json, say

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from experiments.conformance import ConformanceResult


def vectors(
    check: Annotated[bool, typer.Option("--check", help="Check every available implementation.")] = False,
    database: Annotated[
        str | None, typer.Option(help="SQLAlchemy URL of a PostgreSQL database, to check its SQL too.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print the assignment vectors, or check every implementation.

    Exit code 1 when an implementation disagrees.
    """
    from experiments import assignment_vectors, conformance

    if not check:
        typer.echo(assignment_vectors.FILE.read_text("ascii"), nl=False)
        return
    results = conformance.check(assignment_vectors.load(), None if database is None else _postgresql(database))
    if as_json:
        print_json(results)
    else:
        _print_table(results)
    disagreements = list(conformance.failures(results))
    for line in disagreements:
        say(line)
    raise typer.Exit(1 if disagreements else 0)


def _postgresql(url: str) -> Engine:
    from sqlalchemy import create_engine
    from sqlalchemy.exc import SQLAlchemyError

    try:
        engine = create_engine(url)
        if engine.dialect.name != "postgresql":
            raise typer.BadParameter(f"{engine.dialect.name} is not PostgreSQL", param_hint="--database")
        with engine.connect():
            return engine
    except (SQLAlchemyError, ImportError) as error:  # no driver, no server
        raise typer.BadParameter(str(error).splitlines()[0], param_hint="--database") from error


def _print_table(results: Sequence[ConformanceResult]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Assignment vectors")
    table.add_column("implementation")
    table.add_column("vectors")
    table.add_column("checked", justify="right")
    table.add_column("wrong", justify="right")
    table.add_column("")
    for result in results:
        verdict = result.absent or ("WRONG" if result.wrong else "agrees")
        table.add_row(result.implementation, result.vectors, str(result.checked), str(len(result.wrong)), verdict)
    Console().print(table)

"""`sagelift assign` and `sagelift vectors`: which arm a unit gets and why, and whether every implementation agrees."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from sagelift.commands.console import AsJson, current_settings, print_json, say


def assign(
    unit: Annotated[str, typer.Argument(help="The unit's id.")],
    experiment: Annotated[str, typer.Option(help="The experiment's key.")],
    attribute: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="An attribute for targeting; numbers, true, false and null as in JSON."
        ),
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Print each step.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say which arm a unit gets."""
    from experiments.errors import UnknownExperimentError
    from experiments.evaluator import prepare_all
    from sagelift.services import Services

    attributes = dict(map(_attribute, attribute or []))
    with Services(current_settings()) as services:
        prepared = prepare_all(services.experiments.load()).get(experiment)
    if prepared is None:
        raise UnknownExperimentError(f"no running experiment {experiment!r}; `sagelift experiment list` lists them")
    decision, steps = prepared.explain(unit, attributes)
    if as_json:
        return print_json({"decision": decision, "steps": steps} if explain else decision)
    typer.echo(decision.arm if decision.enrolled else f"{decision.arm} (not enrolled: {decision.reason})")
    if explain:
        for step in steps:
            typer.echo(f"  {'+' if step.passed else '-'} {step.name}: {step.found}")


def _attribute(text: str) -> tuple[str, Any]:
    import json

    name, equals, value = text.partition("=")
    if not equals or not name:
        raise typer.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="--attribute")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value  # a bare word is text


def vectors(
    check: Annotated[bool, typer.Option("--check", help="Run them against every implementation at hand.")] = False,
    database: Annotated[
        str | None, typer.Option(help="SQLAlchemy URL of a PostgreSQL database, to check its SQL too.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """The assignment vectors: print them, or check every implementation. Exit code 1 when one disagrees."""
    from experiments import vectors as conformance

    if not check:
        typer.echo(conformance.FILE.read_text("ascii"), nl=False)
        return
    outcomes = conformance.check(conformance.load(), _postgresql(database))
    if as_json:
        print_json(outcomes)
    else:
        _print_table(outcomes)
    for line in (wrong := list(conformance.failures(outcomes))):
        say(line)
    raise typer.Exit(1 if wrong else 0)


def _postgresql(url: str | None) -> Any:
    if url is None:
        return None
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


def _print_table(outcomes: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Assignment vectors")
    table.add_column("implementation")
    table.add_column("vectors")
    table.add_column("checked", justify="right")
    table.add_column("wrong", justify="right")
    table.add_column("")
    for each in outcomes:
        verdict = each.absent or ("WRONG" if each.wrong else "agrees")
        table.add_row(each.implementation, each.vectors, str(each.checked), str(len(each.wrong)), verdict)
    Console().print(table)

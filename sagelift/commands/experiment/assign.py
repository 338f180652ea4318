"""`sagelift assign`: which arm a unit gets, and why."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from sagelift.commands.console import AsJson, current_settings, print_json
from sagelift.commands.experiment.options import UnitId


def assign(
    unit: UnitId,
    experiment: Annotated[str, typer.Option(help="Key of the experiment.")],
    attribute: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="An attribute for targeting; repeatable. Numbers, true, false and null are read as JSON.",
        ),
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Print each step of the assignment.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show which arm a unit gets."""
    from experiments.errors import UnknownExperimentError
    from experiments.evaluator import prepare_all
    from sagelift.services import Services

    attributes = dict(map(parse_attribute, attribute or []))
    with Services(current_settings()) as services:
        prepared = prepare_all(services.experiments.load()).get(experiment)
    if prepared is None:
        raise UnknownExperimentError(f"no running experiment {experiment!r}; `sagelift experiment list` lists them")
    assignment, steps = prepared.explain(unit, attributes)
    if as_json:
        return print_json({"assignment": assignment, "steps": steps} if explain else assignment)
    typer.echo(assignment.arm if assignment.enrolled else f"{assignment.arm} (not enrolled: {assignment.reason})")
    if explain:
        for step in steps:
            typer.echo(f"  {'+' if step.passed else '-'} {step.name}: {step.found}")


def parse_attribute(text: str) -> tuple[str, Any]:
    """Read NAME=VALUE. A value that is not JSON is text.

    Raises:
        typer.BadParameter: The text has no name or no equals sign.
    """
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise typer.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="--attribute")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value

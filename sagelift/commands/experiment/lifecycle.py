"""`sagelift experiment submit | start | ramp | ...`: the steps of an experiment's life."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from feature_repo.times import to_microseconds
from sagelift.commands.experiment.options import TIME_FORMS, Actor, Key, Reason, UnitId, experiment_store
from sagelift.commands.times import parse_time, time_text

if TYPE_CHECKING:
    from experiments.records import Transition


def submit(key: Key, actor: Actor, reason: Reason) -> None:
    """Request a review of the published version."""
    with experiment_store() as store:
        _print_state(key, store.submit(key, actor=actor, reason=reason))


def revise(key: Key, actor: Actor, reason: Reason) -> None:
    """Take the experiment back from review."""
    with experiment_store() as store:
        _print_state(key, store.revise(key, actor=actor, reason=reason))


def start(key: Key, actor: Actor, reason: Reason) -> None:
    """Run a draft, an experiment in review, or a paused experiment."""
    with experiment_store() as store:
        _print_state(key, store.start(key, actor=actor, reason=reason))


def pause(key: Key, actor: Actor, reason: Reason) -> None:
    """Keep serving the arms and enrol no more units."""
    with experiment_store() as store:
        _print_state(key, store.pause(key, actor=actor, reason=reason))


def stop(key: Key, actor: Actor, reason: Reason) -> None:
    """Serve control to everyone."""
    with experiment_store() as store:
        _print_state(key, store.stop(key, actor=actor, reason=reason))


def archive(key: Key, actor: Actor, reason: Reason) -> None:
    """Put away a draft or a decided experiment."""
    with experiment_store() as store:
        _print_state(key, store.archive(key, actor=actor, reason=reason))


def decide(
    key: Key,
    outcome: Annotated[Literal["ship", "roll_back", "inconclusive"], typer.Argument(help="The decision.")],
    actor: Actor,
    reason: Reason,
) -> None:
    """Record the decision about a stopped experiment."""
    with experiment_store() as store:
        store.decide(key, outcome, actor=actor, reason=reason)
    typer.echo(f"{key} is decided: {outcome}")


def ramp(
    key: Key,
    coverage: Annotated[int, typer.Argument(min=0, max=10_000, help="Enrolled share of the units, in 1/10,000.")],
    actor: Actor,
    reason: Reason,
) -> None:
    """Raise the coverage of a live experiment."""
    with experiment_store() as store:
        version = store.ramp(key, coverage, actor=actor, reason=reason)
    typer.echo(f"{key} version {version}, coverage {coverage}")


def hold(key: Key, actor: Actor, reason: Reason) -> None:
    """Stop a ramp at its current coverage. Enrolled units stay; no further units are enrolled."""
    with experiment_store() as store:
        version = store.hold(key, actor=actor, reason=reason)
    typer.echo(f"{key} version {version}")


def override(
    key: Key,
    unit: UnitId,
    arm: Annotated[str, typer.Argument(help="Arm that the unit gets.")],
    actor: Actor,
    reason: Reason,
    until: Annotated[str, typer.Option(help=f"End of the override: {TIME_FORMS}.")],
) -> None:
    """Give one unit a fixed arm until a time, for a manual test. Analyses leave the unit out.

    No command lists overrides.
    """
    from experiments.config import Override

    end = to_microseconds(parse_time(until, "--until"))
    with experiment_store() as store:
        store.force_arm(key, Override(unit, arm, end), actor=actor, reason=reason)
    typer.echo(f"{key} serves {arm} until {time_text(end)}")


def clear_override(key: Key, unit: UnitId, actor: Actor, reason: Reason) -> None:
    """Remove the override of a unit."""
    with experiment_store() as store:
        cleared = store.clear_arm(key, unit, actor=actor, reason=reason)
    typer.echo("cleared" if cleared else "the unit had no override")


def _print_state(key: str, transition: Transition) -> None:
    typer.echo(f"{key} is {transition.state}")

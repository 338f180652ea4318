"""`sagelift experiment list | show | history | audit`: list experiments and their past changes."""

from __future__ import annotations

from typing import Annotated

import typer

from sagelift.commands.console import AsJson, print_json
from sagelift.commands.experiment.options import Key, experiment_store
from sagelift.commands.times import time_text


def list_experiments(as_json: AsJson = False) -> None:
    """List all experiments with state, version and arms."""
    with experiment_store() as store:
        summaries = store.experiments()
        arms = {published.config.key: [arm.key for arm in published.config.arms] for published in store.load()}
    if as_json:
        return print_json(
            [
                {"key": e.key, "state": e.state, "version": e.version, "phase": e.phase, "arms": arms.get(e.key, [])}
                for e in summaries
            ]
        )
    for summary in summaries:
        line = f"{summary.key:<32} {summary.state:<9} version {summary.version or '-'}"
        typer.echo(line + (f"  arms {', '.join(arms[summary.key])}" if summary.key in arms else ""))


def show(
    key: Key,
    version: Annotated[int | None, typer.Option(min=1, help="Number of the version. Default: the latest.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print a published config as YAML.

    Use it to update the file that the team reviews, for instance after a ramp.
    """
    from experiments.config_files import to_yaml

    with experiment_store() as store:
        published = store.version(key, version)
    if as_json:
        return print_json(published)
    typer.echo(to_yaml(published.config), nl=False)


def history(key: Key, as_json: AsJson = False) -> None:
    """List the transitions of an experiment, oldest first."""
    with experiment_store() as store:
        transitions = store.history(key)
    if as_json:
        return print_json(transitions)
    for each in transitions:
        typer.echo(f"{time_text(each.at)}  {each.state:<9} version {each.version or '-'}  {each.actor}: {each.reason}")


def audit(
    subject: Annotated[
        str | None,
        typer.Option(help="Experiment key, id of an API key, or unit_token for erasures. Default: all."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Largest number of entries.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List who changed what, newest first."""
    with experiment_store() as store:
        entries = store.audit(subject, limit=limit)
    if as_json:
        return print_json(entries)
    for each in entries:
        typer.echo(
            f"{time_text(each.at)}  {each.action:<10} {each.subject:<32} {each.actor}: {each.reason}"
            f"  {each.detail or ''}"
        )

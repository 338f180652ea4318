"""`sagelift sample users`: generated data to try the analysis on."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from sagelift.commands.console import say

app = typer.Typer(help="Generated data to start with.", no_args_is_help=True)


@app.callback()
def _sample() -> None:
    """Generated data to start with."""


@app.command()
def users(
    path: Annotated[Path, typer.Argument(help="Parquet file to write. An existing file is replaced.")],
    users: Annotated[int, typer.Option("--users", min=100, help="Number of users.")] = 20_000,
    seed: Annotated[int, typer.Option(min=0, help="Random seed.")] = 7,
) -> None:
    """Write a sample experiment: one row per user, two arms, a planted lift of 6% in orders and GMV.

    Next: sagelift analyze PATH --control control --mean gmv --money gmv --currency EUR --covariate gmv_pre
    --ratio clicks/impressions:share --proportion orders --unit user_id --day day --segment country
    """
    from sagelift.sample_users import write_sample_users

    typer.echo(write_sample_users(path, users, seed))
    say("next: " + next_command(path))


def next_command(path: Path) -> str:
    """The command that analyzes the sample in full."""
    return (
        f"sagelift analyze {shlex.quote(str(path))} --control control --mean gmv --money gmv --currency EUR "
        "--covariate gmv_pre --ratio clicks/impressions:share --proportion orders --unit user_id --day day "
        "--segment country"
    )

"""`sagelift experiment unit ...`: tokens in place of users' ids, and their erasure."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from sagelift.commands.console import AsJson, current_settings, print_json, say
from sagelift.commands.experiment.options import Actor

if TYPE_CHECKING:
    from experiments.privacy import Tokens

app = typer.Typer(help="Unit tokens: ids that do not name a user, and their erasure.", no_args_is_help=True)

_Users = Annotated[
    list[str],
    typer.Argument(
        metavar="USER", help="Ids of users. - reads them from stdin, one per line, which keeps them out of the history."
    ),
]


@app.command()
def token(users: _Users, as_json: AsJson = False) -> None:
    """Print the unit ids of users, one per line and in the same order. A new user gets a new id."""
    with _tokens() as tokens:
        units = [tokens.token(user) for user in _user_ids(users)]
    if as_json:
        return print_json({"units": units})
    for unit in units:
        typer.echo(unit)


@app.command()
def erase(
    users: _Users,
    actor: Actor,
    reason: Annotated[str, typer.Option(help="Why, such as the number of the request. Never the user.")],
) -> None:
    """Delete the link from users to their unit ids. Logged events stay, but no longer lead to a user."""
    with _tokens() as tokens:
        ids = _user_ids(users)
        for user in ids:  # check all ids before the first erasure: after a refused id, nothing is erased
            tokens.check(user, reason)
        erased = [tokens.erase(user, actor=actor, reason=reason) for user in ids]
    typer.echo(f"{sum(erased)} of {len(erased)} users erased")
    if not all(erased):
        say("the other users had no unit id")


@contextmanager
def _tokens() -> Iterator[Tokens]:
    from sagelift.errors import SettingsError
    from sagelift.services import Services

    with Services(current_settings()) as services:
        tokens = services.unit_tokens()
        if tokens is None:
            raise SettingsError(
                "experiments.token_key is empty, but unit tokens need it; set SAGELIFT_EXPERIMENTS__TOKEN_KEY "
                "to at least 64 hexadecimal digits (`openssl rand -hex 32`), the same in every service"
            )
        yield tokens


def _user_ids(users: list[str]) -> list[str]:
    if users != ["-"]:
        return users
    lines = (line.rstrip("\r\n") for line in sys.stdin)
    return [line for line in lines if line]

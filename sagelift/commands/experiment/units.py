"""`sagelift experiment unit ...`: tokens in place of users' ids, and their erasure (docs/experiments.md, Privacy)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from sagelift.commands.console import AsJson, current_settings, print_json, say
from sagelift.commands.experiment.options import Actor
from sagelift.errors import SettingsError

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from experiments.privacy import Tokens
    from sagelift.settings import Settings

unit_app = typer.Typer(help="Unit ids that are no names: tokens of users, and their erasure.", no_args_is_help=True)

_Users = Annotated[
    list[str],
    typer.Argument(metavar="USER", help="Users' ids; - reads them from stdin, one a line, past the shell's history."),
]


def unit_tokens(settings: Settings, engine: Engine) -> Tokens | None:
    """The tokens of the settings' key; None without one."""
    from experiments.privacy import SqlNonces, Tokens

    key = settings.experiments.token_key.get_secret_value()
    return Tokens(bytes.fromhex(key), SqlNonces(engine)) if key else None


@unit_app.command("token")
def unit_token(users: _Users, as_json: AsJson = False) -> None:
    """Print the unit ids that stand for users, one a line, in their order. A user who is new gets one."""
    with _tokens() as tokens:
        units = [tokens.token(user) for user in _given(users)]
    if as_json:
        return print_json({"units": units})
    for unit in units:
        typer.echo(unit)


@unit_app.command("erase")
def unit_erase(
    users: _Users,
    actor: Actor,
    reason: Annotated[str, typer.Option(help="Why, such as the number of the request; never the user.")],
) -> None:
    """Delete what leads from users to their unit ids. What is logged stays, and nobody can say of whom."""
    with _tokens() as tokens:
        named = _given(users)
        for user in named:  # first: one that is refused has nobody erased
            tokens.check(user, reason)
        erased = [tokens.erase(user, actor=actor, reason=reason) for user in named]
    typer.echo(f"{sum(erased)} of {len(erased)} users erased")
    if not all(erased):
        say("of the others nothing was kept")


@contextmanager
def _tokens() -> Iterator[Tokens]:
    from sagelift.services import Services

    with Services(current_settings()) as services:
        tokens = unit_tokens(services.settings, services.experiments.engine)
        if tokens is None:
            raise SettingsError(
                "experiments.token_key is empty, and unit tokens are made from it; set SAGELIFT_EXPERIMENTS__TOKEN_KEY "
                "to 64 hexadecimal digits (`openssl rand -hex 32`), the same in every service"
            )
        yield tokens


def _given(users: list[str]) -> list[str]:
    if users != ["-"]:
        return users
    lines = (line.rstrip("\r\n") for line in sys.stdin)
    return [line for line in lines if line]

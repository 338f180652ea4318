"""`sagelift experiment key ...`: API keys of the REST interface."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from sagelift.commands.console import AsJson, print_json, say
from sagelift.commands.experiment.options import Actor, Reason, experiment_store
from sagelift.commands.times import time_text

app = typer.Typer(help="API keys of the REST interface.", no_args_is_help=True)

_SHOWN = ("id", "name", "role", "created_at", "created_by", "revoked_at")


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Who will use the key. Recorded in the audit log.")],
    actor: Actor,
    role: Annotated[
        Literal["read", "assign", "edit", "admin"], typer.Option(help="What the key may be used for.")
    ] = "assign",
    reason: Reason = "",
) -> None:
    """Create a key and print it. It is shown only once: the database keeps a hash."""
    from experiments.api_keys import ApiKeys

    with experiment_store() as store:
        key, text = ApiKeys(store.engine).create(name, role, actor=actor, reason=reason)
    say(f"key {key.id} for {name!r}, role {role}; it is shown only this once:")
    typer.echo(text)


@app.command()
def revoke(
    id: Annotated[str, typer.Argument(help="Id that `sagelift experiment key list` prints.")],
    actor: Actor,
    reason: Reason = "",
) -> None:
    """Revoke a key for good."""
    from experiments.api_keys import ApiKeys

    with experiment_store() as store:
        ApiKeys(store.engine).revoke(id, actor=actor, reason=reason)
    typer.echo(f"{id} is revoked")


@app.command("list")
def list_keys(as_json: AsJson = False) -> None:
    """List the keys, including revoked ones."""
    from experiments.api_keys import ApiKeys

    with experiment_store() as store:
        keys = ApiKeys(store.engine).all()
    if as_json:
        return print_json([{name: getattr(key, name) for name in _SHOWN} for key in keys])
    for key in keys:
        use = f"revoked {time_text(key.revoked_at)}" if key.revoked_at else "in use"
        typer.echo(f"{key.id}  {key.role:<7} {key.name:<32} created {time_text(key.created_at)}  {use}")

"""`sagelift experiment key ...`: keys of the REST interface."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast

import typer

from sagelift.commands.console import AsJson, print_json, say
from sagelift.commands.experiment.options import Actor, Reason, experiment_store
from sagelift.commands.times import time_text

if TYPE_CHECKING:
    from experiments.roles import Role

key_app = typer.Typer(help="Keys of the REST interface.", no_args_is_help=True)


@key_app.command("create")
def key_create(
    name: Annotated[str, typer.Argument(help="Who will use it; it stands in the audit log.")],
    actor: Actor,
    role: Annotated[str, typer.Option(help="read, assign, edit or admin.")] = "assign",
    reason: Reason = "",
) -> None:
    """Make a key and print it, this once: the database keeps its hash."""
    from experiments.keys import ApiKeys

    with experiment_store() as store:
        key, text = ApiKeys(store.engine).create(name, cast("Role", role), actor=actor, reason=reason)
    say(f"key {key.id} for {name!r}, role {role}; it is shown this once:")
    typer.echo(text)


@key_app.command("revoke")
def key_revoke(
    id: Annotated[str, typer.Argument(help="As `sagelift experiment key list` prints it.")],
    actor: Actor,
    reason: Reason = "",
) -> None:
    """End a key, for good."""
    from experiments.keys import ApiKeys

    with experiment_store() as store:
        ApiKeys(store.engine).revoke(id, actor=actor, reason=reason)
    typer.echo(f"{id} is revoked")


@key_app.command("list")
def key_list(as_json: AsJson = False) -> None:
    """List the keys, the revoked ones too."""
    from experiments.keys import ApiKeys

    with experiment_store() as store:
        keys = ApiKeys(store.engine).all()
    if as_json:
        shown = ("id", "name", "role", "created_at", "created_by", "revoked_at")
        return print_json([{name: getattr(key, name) for name in shown} for key in keys])
    for key in keys:
        end = f"revoked {time_text(key.revoked_at)}" if key.revoked_at else "in use"
        typer.echo(f"{key.id}  {key.role:<7} {key.name:<32} made {time_text(key.created_at)}  {end}")

"""`sagelift experiment migrate | openapi`: the database's revision and the description of the REST interface."""

from __future__ import annotations

from typing import Annotated

import typer

from sagelift.commands.console import current_settings, print_json


def migrate(
    revision: Annotated[str, typer.Option(help="`head`, a number such as 0001, or `base`: drop all tables.")] = "head",
) -> None:
    """Migrate the database to this program's revision. Take a backup first: going back deletes newer data."""
    from experiments.store import ExperimentStore
    from sagelift.services import Services

    with Services(current_settings()) as services:
        services.settings.state.mkdir(parents=True, exist_ok=True)
        before, after = ExperimentStore(services.database).migrate(revision)
    typer.echo(f"revision {after or 'none'}" + ("" if before == after else f", was {before or 'none'}"))


def openapi() -> None:
    """Print the OpenAPI document of the REST interface."""
    from sqlalchemy import create_engine

    from experiments.api_keys import KeyRing
    from experiments.assigner import Assigner
    from experiments.rest.app import create_app
    from experiments.store import ExperimentStore

    store = ExperimentStore(create_engine("sqlite://"))
    print_json(create_app(store, Assigner(store.load), KeyRing(list)).openapi())

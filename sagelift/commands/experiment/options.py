"""What the commands below `sagelift experiment` share: the store, and who does something and why."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from sagelift.commands.console import current_settings

if TYPE_CHECKING:
    from experiments.store import ExperimentStore

Actor = Annotated[str, typer.Option(help="Who does this.", envvar="USER")]
Reason = Annotated[str, typer.Option(help="Why.")]


@contextmanager
def experiment_store() -> Iterator[ExperimentStore]:
    """The store of the settings' database."""
    from sagelift.services import Services

    with Services(current_settings()) as services:
        yield services.experiments

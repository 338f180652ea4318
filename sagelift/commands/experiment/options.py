"""Shared by the commands below `sagelift experiment`: the store, the author and reason of a change, arguments."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from sagelift.commands.console import current_settings

if TYPE_CHECKING:
    from experiments.store import ExperimentStore

Actor = Annotated[str, typer.Option(help="Who makes the change. Recorded in the audit log.", envvar="USER")]
Reason = Annotated[str, typer.Option(help="Why the change is made. Recorded in the audit log.")]
Key = Annotated[str, typer.Argument(help="Key of the experiment.")]
UnitId = Annotated[str, typer.Argument(help="Id of the unit.")]

TIME_FORMS = "2026-05-04T12:30Z, or 2026-05-04T14:30+02:00"


@contextmanager
def experiment_store() -> Iterator[ExperimentStore]:
    """Open the store of the experiment database in the settings."""
    from sagelift.services import Services

    with Services(current_settings()) as services:
        yield services.experiments

"""`sagelift experiment`: assembles the commands of this package.

The steps of the life cycle have the same names in Python (`ExperimentStore`) and over REST.
"""

from __future__ import annotations

from collections.abc import Callable

import typer

from sagelift.commands.experiment import database, files, keys, layers, lifecycle, listing, metrics, schedule, units

app = typer.Typer(help="Experiments: files, life cycle, schedule, guardrails, API keys.", no_args_is_help=True)

_COMMANDS: dict[str, tuple[Callable[..., None], ...]] = {
    "Files": (files.validate, files.diff, files.publish, files.new_phase, files.schema),
    "Life cycle": (
        *(lifecycle.submit, lifecycle.revise, lifecycle.start, lifecycle.pause, lifecycle.stop),
        *(lifecycle.decide, lifecycle.archive, lifecycle.ramp, lifecycle.hold),
        *(lifecycle.override, lifecycle.clear_override),
    ),
    "Inspect": (listing.list_experiments, listing.show, listing.history, listing.audit),
    "Schedule and guardrails": (schedule.schedule, schedule.cancel, schedule.guard, schedule.tick),
    "Database and REST interface": (database.migrate, database.openapi),
}
for panel, commands in _COMMANDS.items():
    for command in commands:
        name = "list" if command is listing.list_experiments else command.__name__.replace("_", "-")
        app.command(name, rich_help_panel=panel)(command)

_GROUPS = {"layer": layers.app, "metric": metrics.app, "key": keys.app, "unit": units.app}
for name, group in _GROUPS.items():
    app.add_typer(group, name=name, rich_help_panel="Groups")

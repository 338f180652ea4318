"""`sagelift experiment validate | diff | publish | new-phase | schema`: experiments as YAML files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sagelift.commands.console import AsJson, counted, print_json, say
from sagelift.commands.experiment.options import Actor, Reason, experiment_store

if TYPE_CHECKING:
    from experiments.config import ExperimentConfig
    from experiments.edits import Change
    from experiments.store import ExperimentStore

_File = Annotated[Path, typer.Argument(help="YAML file of the experiment.")]
_Paths = Annotated[list[Path], typer.Argument(help="YAML files, or folders of them.")]


@dataclass(frozen=True)
class FileDifference:
    """The differences between a file and the published experiment.

    Attributes:
        key: Key of the experiment.
        state: State of the published experiment; None when the experiment is new.
        command: Command that takes the change, `publish` or `new-phase`; None when nothing differs.
        changes: The changed fields.
    """

    key: str
    state: str | None
    command: str | None
    changes: list[Change]


def validate(paths: _Paths, as_json: AsJson = False) -> None:
    """Check each experiment file, and all of them together.

    Exit code 1 when a file has a fault.
    """
    from experiments.config_files import experiment_files, read

    configs, faults = read(experiment_files(paths))
    if as_json:
        print_json({"experiments": [config.key for config in configs.values()], "faults": faults})
    else:
        for fault in faults:
            typer.echo(f"{fault.file}: {fault.message}")
        say(f"{counted(len(configs), 'experiment')}, {counted(len(faults), 'fault')}")
    raise typer.Exit(1 if faults else 0)


def diff(paths: _Paths, as_json: AsJson = False) -> None:
    """Show how files differ from the published experiments, and which command publishes the change.

    Exit code 1 when a file differs.
    """
    from experiments.config_files import experiment_files
    from experiments.config_parsing import load_yaml

    configs = [load_yaml(path) for path in experiment_files(paths)]
    with experiment_store() as store:
        states = {summary.key: summary.state for summary in store.experiments()}
        differences = [difference(store, config, states.get(config.key)) for config in configs]
    if as_json:
        print_json(differences)
    else:
        for each in differences:
            _print_difference(each)
    raise typer.Exit(1 if any(each.command for each in differences) else 0)


def difference(store: ExperimentStore, config: ExperimentConfig, state: str | None) -> FileDifference:
    """Compare a config with the latest published version.

    Args:
        store: Store with the published versions.
        config: Config from a file.
        state: State of the experiment in the store; None when the store does not know it.
    """
    from experiments.edits import changes
    from experiments.lifecycle import LIVE
    from experiments.times import now_us

    versions = store.versions(config.key) if state is not None else []
    if not versions:
        return FileDifference(config.key, state, "publish", [])
    changed = list(changes(versions[-1].config, config, now_us()))
    is_unsafe = any(change.unsafe for change in changed)
    needs_phase = state == "stopped" or (state in LIVE and is_unsafe)
    command = ("new-phase" if needs_phase else "publish") if changed else None
    return FileDifference(config.key, state, command, changed)


def publish(file: _File, actor: Actor, reason: Reason = "") -> None:
    """Publish an experiment from a file. A new one is created. A live one accepts safe edits only."""
    from experiments.config_parsing import load_yaml

    config = load_yaml(file)
    with experiment_store() as store:
        version = store.publish(config, actor=actor, reason=reason, create=True)
    typer.echo(f"{config.key} version {version}")


def new_phase(file: _File, actor: Actor, reason: Reason) -> None:
    """Begin a new phase from a file with a new salt. For edits that would move units between arms."""
    from experiments.config_parsing import load_yaml

    config = load_yaml(file)
    with experiment_store() as store:
        version = store.new_phase(config, actor=actor, reason=reason)
    typer.echo(f"{config.key} version {version}, a new phase")


def schema() -> None:
    """Print the JSON Schema of an experiment file."""
    from experiments.config_files import json_schema

    print_json(json_schema())


def _print_difference(each: FileDifference) -> None:
    typer.echo(f"{each.key} ({each.state or 'new'}): {each.command or 'as published'}")
    for change in each.changes:
        unsafe = f"   unsafe: {change.unsafe}" if change.unsafe else ""
        typer.echo(f"  {change.field}: {change.old!r} -> {change.new!r}{unsafe}")

"""Training runs of the installation: where they are, and how to find one by its name or folder."""

from __future__ import annotations

import json
from pathlib import Path

from inference.errors import ArtifactError
from inference.training.run import unfinished_runs, work_folder
from sagelift.services import Services


def runs_folder(services: Services) -> Path:
    """The folder of the installation's runs."""
    return services.settings.state / "runs"


def latest_run(services: Services) -> Path:
    """Find the newest finished run.

    Raises:
        ArtifactError: No run is finished.
    """
    folder = runs_folder(services)
    runs = _finished(folder)
    if not runs:
        raise ArtifactError(f"{folder} has no training run; train one with `sagelift model train`")
    return runs[-1]


def find_run(services: Services, name: str | None) -> Path:
    """Find a finished run.

    Args:
        services: Parts of the installation.
        name: Name or folder of the run; None for the newest.

    Returns:
        The folder of the run.

    Raises:
        ArtifactError: The run does not exist or is not finished. The message names the finished runs.
    """
    if name is None:
        return latest_run(services)
    run = _folder_of(services, name)
    if run.is_dir():
        return run
    if work_folder(run).is_dir():
        raise ArtifactError(
            f"run {run.name} is not finished; resume it with `sagelift model train --resume {run.name}`"
        )
    listed = ", ".join(path.name for path in _finished(runs_folder(services))) or "none"
    raise ArtifactError(f"there is no training run {name!r}; {runs_folder(services)} has {listed}")


def find_unfinished(services: Services, name: str) -> Path:
    """Find a run to resume. A finished run is accepted too.

    Args:
        services: Parts of the installation.
        name: Name or folder of the run, with or without the suffix of an unfinished run.

    Returns:
        The folder that the finished run has or will have.

    Raises:
        ArtifactError: The run does not exist. The message names the unfinished runs.
    """
    run = _folder_of(services, name)
    if run.is_dir() or work_folder(run).is_dir():
        return run
    listed = ", ".join(path.name for path in unfinished_runs(runs_folder(services))) or "none"
    raise ArtifactError(f"there is no training run {name!r} to resume; {runs_folder(services)} has {listed}")


def data_as_of(run: Path) -> str | None:
    """Return the time of the data in a run's training set, in ISO 8601.

    Args:
        run: Folder of the run.

    Returns:
        The time; None for a run that was not trained on an installation's data.
    """
    try:
        about = json.loads((run / "data" / "about.json").read_bytes())
        return str(about["as_of"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _folder_of(services: Services, name: str) -> Path:
    """Return the folder of the finished run, which need not exist yet."""
    name = name.rstrip("/").removesuffix(".partial")
    local = Path(name).absolute()
    return local if local.is_dir() or work_folder(local).is_dir() else runs_folder(services) / name


def _finished(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*Z") if path.is_dir())

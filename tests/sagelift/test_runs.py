"""Runs of an installation are found by name or folder, and an error names those that exist."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from inference.errors import ArtifactError
from inference.training.run import work_folder
from sagelift.runs import data_as_of, find_run, find_unfinished, latest_run, runs_folder
from sagelift.services import Services
from sagelift.settings import load_settings

OLD, NEW, OPEN = "20260301T120000.000000Z", "20260302T120000.000000Z", "20260303T120000.000000Z"


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    """Two finished runs and an interrupted one."""
    with Services(load_settings(state_dir=tmp_path)) as services:
        for name in (OLD, NEW):
            (runs_folder(services) / name).mkdir(parents=True)
        (work_folder(runs_folder(services) / OPEN) / "data").mkdir(parents=True)
        (work_folder(runs_folder(services) / OPEN) / "config.json").write_text("{}")
        yield services


def test_the_newest_finished_run_is_the_default(services: Services) -> None:
    assert find_run(services, None) == latest_run(services) == runs_folder(services) / NEW


def test_a_run_is_found_by_name_and_by_folder(services: Services) -> None:
    folder = runs_folder(services) / OLD
    assert find_run(services, OLD) == find_run(services, f"{folder}/") == folder


def test_an_unknown_run_is_answered_with_those_that_are_finished(services: Services) -> None:
    with pytest.raises(ArtifactError, match=f"no training run 'x'; .* has {OLD}, {NEW}$"):
        find_run(services, "x")


def test_an_interrupted_run_is_answered_with_the_command_that_resumes_it(services: Services) -> None:
    with pytest.raises(ArtifactError, match=f"{OPEN} is not finished; resume it with `sagelift model train --resume"):
        find_run(services, OPEN)


def test_an_interrupted_run_is_resumed_by_name_with_or_without_its_suffix(services: Services) -> None:
    folder = runs_folder(services) / OPEN
    assert find_unfinished(services, OPEN) == find_unfinished(services, f"{work_folder(folder)}") == folder
    assert find_unfinished(services, OLD) == runs_folder(services) / OLD
    with pytest.raises(ArtifactError, match="no training run 'x' to resume; .* has " + OPEN):
        find_unfinished(services, "x")


def test_without_a_run_the_message_names_the_command(tmp_path: Path) -> None:
    with (
        Services(load_settings(state_dir=tmp_path)) as services,
        pytest.raises(ArtifactError, match="train one with `sagelift model train`"),
    ):
        latest_run(services)


@pytest.mark.parametrize("about", [None, "", "[]", "{}"])
def test_a_run_without_an_installations_data_has_no_time(tmp_path: Path, about: str | None) -> None:
    (tmp_path / "data").mkdir()
    if about is not None:
        (tmp_path / "data" / "about.json").write_text(about)
    assert data_as_of(tmp_path) is None
    (tmp_path / "data" / "about.json").write_text('{"as_of": "2026-03-01T12:00:00+00:00"}')
    assert data_as_of(tmp_path) == "2026-03-01T12:00:00+00:00"

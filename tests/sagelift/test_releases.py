"""A run becomes a release with its search encoder and the facts of its training."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from inference.errors import ArtifactError
from inference.training.result import TrainedModel
from inference.training.run import continue_run, prepare_run
from sagelift import releases
from sagelift.releases import export_run, make_release_live, release_run
from sagelift.services import Services
from sagelift.settings import load_settings
from streaming.release.check import ReleaseCheck
from tests.inference.builders import catalogue, engagements
from tests.inference.training.configs import FEW_STEPS


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "20260301T120000"
    prepare_run(run, catalogue(), engagements(), FEW_STEPS)
    continue_run(run)
    (run / "data" / "about.json").write_text('{"as_of": "2026-03-01T12:00:00+00:00"}')
    return run


class Steps:
    """Notes the calls that reach Triton, Kafka and `streaming.release`, which are not here."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self.options: dict[str, Any] = {}
        self.target: Any = None
        monkeypatch.setattr(Services, "prepare_visual_encoder", lambda _: self.calls.append("visual encoder"))
        monkeypatch.setattr(Services, "publishers", lambda _: ("publish", "publish offers"))
        monkeypatch.setattr(Services, "triton", "triton")
        monkeypatch.setattr(Services, "features", "features")
        monkeypatch.setattr(releases, "release_model", self._record("release"))
        monkeypatch.setattr(releases, "make_live", self._record("make live"))

    def _record(self, name: str) -> Any:
        def call(target: Any, *arguments: Any, **options: Any) -> str:
            self.calls.append(name)
            self.target, self.options = target, options
            return f"{name} {arguments[0] if isinstance(arguments[0], str) else type(arguments[0]).__name__}"

        return call


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    return Steps(monkeypatch)


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    with Services(load_settings(state_dir=tmp_path)) as services:
        yield services


def test_an_exported_run_has_its_search_encoder_and_its_figures(run: Path, tmp_path: Path) -> None:
    release = export_run(tmp_path / "models", run)
    folder = tmp_path / "models" / "itemsage" / release.version
    assert (folder / "search.safetensors").read_bytes() == (run / "search.safetensors").read_bytes()
    about = " ".join(path.read_text() for path in folder.glob("*.json"))
    assert f'"{run.name}"' in about
    assert '"2026-03-01T12:00:00+00:00"' in about
    recall = TrainedModel.load(run).result.itemsage.mean_recall
    assert json.dumps(recall) in about


def test_a_folder_without_a_run_is_refused_and_nothing_is_exported(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError):
        export_run(tmp_path / "models", tmp_path / "none")
    assert not (tmp_path / "models" / "itemsage").exists()


def test_a_released_run_is_checked_against_the_live_release(services: Services, run: Path, steps: Steps) -> None:
    assert release_run(services, run) == "release ItemSage"
    assert steps.calls == ["visual encoder", "release"], "Triton needs the visual encoder before a release"
    assert isinstance(steps.options["check"], ReleaseCheck)
    assert steps.options["metadata"]["run"] == run.name
    assert set(steps.options["extra_files"]) == {"search.safetensors", "search.json"}
    assert steps.target.publish == "publish"


@pytest.mark.parametrize("checked", [True, False])
def test_a_release_that_is_made_live_is_checked_only_on_request(
    services: Services, steps: Steps, checked: bool
) -> None:
    assert make_release_live(services, "3", checked=checked) == "make live 3"
    assert (steps.options["check"] is not None) == checked
    assert steps.calls == ["visual encoder", "make live"]

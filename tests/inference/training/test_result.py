"""A finished run: its folder reads back as the same model, or is refused."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from inference.errors import ArtifactError
from inference.training.config import TrainConfig
from inference.training.evaluation import embed_all
from inference.training.packed import PackedProducts
from inference.training.pipeline import train
from inference.training.result import TrainedModel
from tests.inference.builders import catalogue, engagements
from tests.inference.training.configs import FEW_STEPS


@pytest.fixture(scope="module")
def trained() -> TrainedModel:
    return train(catalogue(), engagements(), FEW_STEPS)


def test_a_run_folder_reads_back_as_the_same_model(trained: TrainedModel, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "one"
    trained.save(run)
    assert sorted(p.name for p in run.iterdir()) == [
        "config.json",
        "environment.json",
        "loss.svg",
        "metrics.json",
        "model.json",
        "model.safetensors",
        "search.json",
        "search.safetensors",
        "tokenizer.json",
    ]
    assert [p.name for p in run.parent.iterdir()] == ["one"], "nothing is left aside"
    assert msgspec.json.decode((run / "config.json").read_bytes(), type=TrainConfig) == FEW_STEPS
    loaded = TrainedModel.load(run)
    assert loaded.result == trained.result
    packed = PackedProducts(catalogue(), loaded.tokenizer)
    np.testing.assert_array_equal(embed_all(loaded.model, packed), embed_all(trained.model, packed))
    np.testing.assert_array_equal(loaded.search(["boots please"]), trained.search(["boots please"]))


def test_a_run_never_replaces_another(trained: TrainedModel, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    with pytest.raises(ArtifactError, match="one exists already"):
        trained.save(tmp_path / "one")


def test_a_run_that_cannot_be_written_leaves_nothing(
    trained: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: object, folder: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(trained.search), "save", full)
    with pytest.raises(ArtifactError, match=r"cannot be written: .*No space left"):
        trained.save(tmp_path / "one")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["model.safetensors", "model.json", "metrics.json", "tokenizer.json", "search.json"])
@pytest.mark.parametrize("how", ["missing", "cut"])
def test_a_damaged_run_is_refused(trained: TrainedModel, tmp_path: Path, name: str, how: str) -> None:
    run = tmp_path / "one"
    trained.save(run)
    if how == "missing":
        (run / name).unlink()
    else:
        (run / name).write_bytes((run / name).read_bytes()[:-9])
    with pytest.raises(ArtifactError):
        TrainedModel.load(run)


def test_a_run_with_another_runs_model_is_refused(trained: TrainedModel, tmp_path: Path) -> None:
    run = tmp_path / "one"
    trained.save(run)
    other = train(catalogue(), engagements(), msgspec.structs.replace(FEW_STEPS, unigrams=9))
    other.save(tmp_path / "two")
    for name in ("model.json", "model.safetensors"):
        (run / name).write_bytes((tmp_path / "two" / name).read_bytes())
    with pytest.raises(ArtifactError, match="ids, its tokenizer"):
        TrainedModel.load(run)

"""Reading a release: the same numbers as before the export, or a clear error."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from inference.errors import ArtifactError
from inference.releases.export import export_release
from inference.releases.release import load_release
from inference.tokenizer import Tokenizer
from inference.visual import VISUAL_VERSION
from tests.inference.releases.fakes import TOKENIZER, small_model


def test_a_release_reads_back_as_the_same_model_tokenizer_and_metadata(tmp_path: Path) -> None:
    model = small_model(TOKENIZER)
    created = datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)
    release = export_release(tmp_path, model, TOKENIZER, metadata={"recall": 0.5}, clock=lambda: created)
    loaded, loaded_tokenizer, config = load_release(release.path)
    assert loaded_tokenizer.ids("red shoe") == TOKENIZER.ids("red shoe") != []
    assert (config.created, config.metadata, config.visual_version) == (created, {"recall": 0.5}, VISUAL_VERSION)
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], weight, rtol=0, atol=0)


def damage_missing(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def damage_truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def damage_shapes(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["cls"] = weights["cls"][:-1].clone()
    save_file(weights, folder / "model.safetensors")


def damage_absent_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["cls"]
    save_file(weights, folder / "model.safetensors")


def damage_vocabulary(folder: Path) -> None:
    Tokenizer.fit([{"title": "another corpus altogether"}]).save(folder / "tokenizer.json")


def damage_format(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"format": "somebody-elses-9"}))


def damage_config_cut(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(path.read_text()[:-20])


def damage_config_sizes(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["model"]["heads"] = 5
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_missing, "model.safetensors cannot be read"),
        (damage_truncated, "is truncated"),
        (damage_shapes, r"cls is \(31,\), must be \(32,\)"),
        (damage_absent_weight, r"cls is None, must be \(32,\)"),
        (damage_vocabulary, "come from different trainings"),
        (damage_format, "format 'somebody-elses-9', must be"),
        (damage_config_cut, "config.json is not a release's configuration or is truncated"),
        (damage_config_sizes, "multiple of heads"),
    ],
)
def test_a_damaged_release_is_refused_and_the_damage_named(tmp_path: Path, damage: object, message: str) -> None:
    path = export_release(tmp_path, small_model(TOKENIZER), TOKENIZER).path
    damage(path)  # type: ignore[operator]
    with pytest.raises(ArtifactError, match=message):
        load_release(path)

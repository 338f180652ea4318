"""Checkpoints: the newest complete one is read back, and nothing else stays."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from feature_repo.files import PARTIAL
from inference.errors import ArtifactError
from inference.training.checkpoint import Checkpoint, load_checkpoint, remove_checkpoints, save_checkpoint


def checkpoint(steps: int) -> Checkpoint:
    return Checkpoint(steps, {"weight": torch.full((2, 3), float(steps))}, {"rng": 2**127, "losses": [0.5] * steps})


def test_a_checkpoint_reads_back_with_large_integers(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path) is None
    save_checkpoint(tmp_path, checkpoint(4))
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None
    assert (loaded.steps_done, loaded.plain) == (4, {"rng": 2**127, "losses": [0.5] * 4})
    assert torch.equal(loaded.tensors["weight"], torch.full((2, 3), 4.0))


def test_a_new_checkpoint_replaces_older_ones_and_the_remains_of_killed_processes(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint(4))
    (tmp_path / f".killed{PARTIAL}").mkdir()
    save_checkpoint(tmp_path, checkpoint(8))
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-00000008"]
    remove_checkpoints(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_partial_checkpoint_is_not_read(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint(4))
    (tmp_path / f".checkpoint-00000008{PARTIAL}").mkdir()
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None
    assert loaded.steps_done == 4


def test_a_checkpoint_that_cannot_be_written_leaves_the_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path, checkpoint(4))

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ArtifactError, match=r"checkpoint-00000008 cannot be written: .*No space left"):
        save_checkpoint(tmp_path, checkpoint(8))
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-00000004"]


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint(4))
    (tmp_path / "checkpoint-00000004" / "state.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"checkpoint-00000004 is damaged .*remove it to train from the start"):
        load_checkpoint(tmp_path)

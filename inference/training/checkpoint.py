"""Checkpoints of a training run: tensors as safetensors, everything else as JSON, never a pickle.

`checkpoint-<steps done>/` appears under its name only when it is complete and on the disk. The older checkpoint is
removed afterwards. A process that is killed at any time leaves one complete checkpoint, or none before the first.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from torch import Tensor

from feature_repo.files import PARTIAL, atomic_folder
from inference.errors import ArtifactError


class Checkpoint(NamedTuple):
    """The state of a training after some steps."""

    steps_done: int
    tensors: dict[str, Tensor]
    plain: dict[str, Any]  # everything that is no tensor; JSON can hold it


def save_checkpoint(run: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, then remove older ones and the remains of killed processes.

    Args:
        run: The run's folder; no other process may write to it.
        checkpoint: The state to save.

    Raises:
        ArtifactError: If it cannot be written; the older checkpoint stays.
    """
    from safetensors.torch import save_file

    folder = run / f"checkpoint-{checkpoint.steps_done:08d}"
    try:
        with atomic_folder(folder, durable=True) as partial:
            tensors = {name: t.detach().contiguous() for name, t in checkpoint.tensors.items()}
            save_file(tensors, partial / "tensors.safetensors")
            (partial / "state.json").write_bytes(json.dumps(checkpoint.plain).encode())
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"the checkpoint {folder} cannot be written: {error}") from None
    remove_checkpoints(run, keep=folder)


def load_checkpoint(run: Path) -> Checkpoint | None:
    """Return the newest checkpoint, or None before the first one.

    Raises:
        ArtifactError: If the checkpoint is damaged.
    """
    from safetensors.torch import load_file

    folders = sorted(run.glob("checkpoint-*"))
    if not folders:
        return None
    newest = folders[-1]
    try:
        # Not msgspec: the state of a random generator holds integers of 128 bits.
        plain = json.loads((newest / "state.json").read_bytes())
        return Checkpoint(int(newest.name.partition("-")[2]), load_file(newest / "tensors.safetensors"), plain)
    except (OSError, ValueError, SafetensorError) as error:
        raise ArtifactError(f"{newest} is damaged ({error}); remove it to train from the start") from None


def remove_checkpoints(run: Path, keep: Path | None = None) -> None:
    """Remove a run's checkpoints, except one, and the partial folders of killed processes."""
    for path in (*run.glob("checkpoint-*"), *run.glob(f".*{PARTIAL}")):
        if path != keep:
            shutil.rmtree(path, ignore_errors=True)

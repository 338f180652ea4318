"""Checkpoints of a training run: tensors as safetensors, everything else as JSON; never a pickle.

`checkpoint-<steps done>/` appears under its name only when it is complete and on the disk; the older one goes
afterwards. A process that is killed at any moment leaves one whole checkpoint, or none before the first.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from inference.errors import ArtifactError


def save_checkpoint(run: Path, steps_done: int, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
    """Write the state after so many steps, then remove older checkpoints.

    Raises:
        ArtifactError: the disk refuses; the older checkpoint stays.
    """
    from safetensors.torch import save_file

    folder = run / f"checkpoint-{steps_done:08d}"
    aside = folder.with_suffix(".partial")
    older = [p for p in run.glob("checkpoint-*") if p != folder]
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        save_file({name: t.detach().contiguous() for name, t in tensors.items()}, aside / "tensors.safetensors")
        (aside / "state.json").write_bytes(json.dumps(plain).encode())
        for file in aside.iterdir():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
        aside.rename(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise ArtifactError(f"the checkpoint {folder} cannot be written: {error}") from None
    for path in older:
        shutil.rmtree(path, ignore_errors=True)


def load_checkpoint(run: Path) -> tuple[int, dict[str, Tensor], dict[str, Any]] | None:
    """The newest checkpoint: steps done, tensors, plain state; None without any.

    Raises:
        ArtifactError: it is damaged.
    """
    from safetensors.torch import load_file

    whole = sorted(p for p in run.glob("checkpoint-*") if p.suffix != ".partial")
    if not whole:
        return None
    newest = whole[-1]
    try:
        # Not msgspec: the state of a random generator holds integers of 128 bits.
        plain = json.loads((newest / "state.json").read_bytes())
        return int(newest.name.partition("-")[2]), load_file(newest / "tensors.safetensors"), plain
    except (OSError, ValueError, SafetensorError) as error:
        raise ArtifactError(f"{newest} is damaged ({error}); remove it to train from the start") from None

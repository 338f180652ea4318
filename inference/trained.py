"""A finished training run: the model with everything that a release needs, and its folder on disk.

config.json      how it was trained               environment.json  where: versions, commit, processor
tokenizer.json   the vocabularies                 metrics.json      losses, Recall@10 per task, coverage
model.{safetensors,json}                          loss.svg          the losses as a picture
search.{safetensors,json}  the search encoder     data/             the training set (runs that can be resumed)
"""

from __future__ import annotations

import platform
import shutil
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError

from inference.baselines import Encoder, build_encoder
from inference.errors import ArtifactError
from inference.evaluate import Evaluation
from inference.model import ItemSage, ItemSageConfig
from inference.queries import SearchQueries
from inference.tokenizer import Tokenizer
from inference.train_config import TrainConfig


class TrainResult(msgspec.Struct, frozen=True):
    """What a run reports (`metrics.json`)."""

    parameters: int
    vocabulary: int
    training_pairs: int
    held_out_pairs: int
    seconds: float
    loss: list[float]
    itemsage: Evaluation
    sum: Evaluation


class TrainedModel:
    """A finished run in memory. `encoder` is ItemSage or a baseline, in evaluation mode on the CPU."""

    def __init__(
        self, encoder: Encoder, tokenizer: Tokenizer, search: SearchQueries, result: TrainResult, config: TrainConfig
    ) -> None:
        self.encoder = encoder.eval()
        self.tokenizer = tokenizer
        self.search = search
        self.result = result
        self.config = config

    @property
    def model(self) -> ItemSage:
        """The model, fit for release.

        Raises:
            ArtifactError: the run trained a baseline, or for one modality: serving would feed it what it never saw.
        """
        if not isinstance(self.encoder, ItemSage) or not (self.config.images and self.config.text):
            raise ArtifactError(
                f"this run trained {self.config.model} with images={self.config.images}, text={self.config.text}: "
                "it is there for comparison; only ItemSage on images and text can be released"
            )
        return self.encoder

    def save(self, folder: Path) -> None:
        """Write the run folder, aside first, then renamed: it is there whole or not at all.

        Raises:
            ArtifactError: the folder is there already, or the disk refuses.
        """
        refuse_existing(folder)
        aside = folder.with_name(folder.name + ".partial")
        shutil.rmtree(aside, ignore_errors=True)
        try:
            aside.mkdir(parents=True)
            self.tokenizer.save(aside / "tokenizer.json")
            self.search.save(aside)
            self.write_model(aside)
            aside.rename(folder)
        except (OSError, SafetensorError) as error:
            raise ArtifactError(f"the run {folder} cannot be written: {error}") from None
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def write_model(self, folder: Path) -> None:
        """The model and the reports, into a folder that nobody reads yet (without tokenizer and search encoder)."""
        from safetensors.torch import save_file

        save_file(self.encoder.state_dict(), folder / "model.safetensors")
        (folder / "model.json").write_bytes(msgspec.json.encode(asdict(self.encoder.config)))
        write_json(folder / "config.json", self.config)
        write_json(folder / "environment.json", environment())
        write_json(folder / "metrics.json", self.result)
        draw_losses(self.result.loss, folder / "loss.svg")

    @classmethod
    def load(cls, folder: Path) -> TrainedModel:
        """Read a run folder back.

        Raises:
            ArtifactError: a file is missing, truncated, or of another kind.
        """
        from safetensors.torch import load_file

        search = SearchQueries.load(folder)
        try:
            config = msgspec.json.decode((folder / "config.json").read_bytes(), type=TrainConfig)
            sizes = ItemSageConfig(**msgspec.json.decode((folder / "model.json").read_bytes()))
            encoder = build_encoder(config.model, sizes)
            encoder.load_state_dict(load_file(folder / "model.safetensors"))
            result = msgspec.json.decode((folder / "metrics.json").read_bytes(), type=TrainResult)
        except (OSError, TypeError, ValueError, RuntimeError, msgspec.MsgspecError, SafetensorError) as error:
            raise ArtifactError(f"{folder} is no complete training run: {error}") from None
        if sizes.vocabulary != (size := search.tokenizer.size):
            raise ArtifactError(f"{folder}: the model has {sizes.vocabulary} ids, its tokenizer {size}")
        return cls(encoder, search.tokenizer, search, result, config)


def refuse_existing(folder: Path) -> None:
    """Raise ArtifactError if the run is there already."""
    if folder.exists():
        raise ArtifactError(f"{folder} is there already; a run never replaces another")


def write_json(path: Path, value: Any) -> None:
    """Indented JSON, for people."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(value)))


def environment() -> dict[str, Any]:
    """What the run ran on: enough to tell why another run's figures differ."""
    import numpy as np

    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "commit": _commit(),
        "machine": platform.machine(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _commit() -> str | None:
    """The commit of this source tree; None for an installed package."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=Path(__file__).parent, capture_output=True, text=True
        )
    except OSError:
        return None
    return done.stdout.strip() or None


def draw_losses(losses: list[float], path: Path) -> None:
    """The loss of every step and its running mean, as SVG."""
    import numpy as np
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    steps = np.arange(1, len(losses) + 1)
    axes.plot(steps, losses, color="0.75", linewidth=0.8, label="every step")
    window = max(1, len(losses) // 20)
    mean = np.convolve(losses, np.ones(window) / window, mode="valid")
    axes.plot(steps[window - 1 :], mean, color="C0", label=f"mean of {window} steps")
    axes.set(xlabel="step", ylabel="loss (nats)")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, format="svg", metadata={"Date": None})

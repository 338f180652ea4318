"""A finished training run: the model with everything that a release needs, and its folder on disk.

config.json      how it was trained               environment.json  where: versions, commit, processor
tokenizer.json   the vocabularies                 metrics.json      losses, Recall@10 per task, coverage
model.{safetensors,json}                          loss.svg          a drawing of the losses
search.{safetensors,json}  the search encoder     data/             the training set (runs that can be resumed)
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
from safetensors import SafetensorError

from feature_repo.files import atomic_folder
from inference.errors import ArtifactError
from inference.model import ItemSage, ItemSageConfig
from inference.queries import SearchQueries
from inference.tokenizer import Tokenizer
from inference.training.config import TrainConfig
from inference.training.encoders import Encoder, build_encoder
from inference.training.evaluation import Evaluation
from inference.training.report import draw_losses, environment


class TrainResult(msgspec.Struct, frozen=True):
    """The figures of a run (`metrics.json`)."""

    parameters: int
    vocabulary: int
    training_pairs: int
    held_out_pairs: int
    seconds: float
    loss: list[float]  # of each step, in nats
    itemsage: Evaluation  # the run's model, also if it is a baseline
    sum: Evaluation  # the *Sum* baseline


class TrainedModel:
    """A finished run in memory.

    Attributes:
        encoder: ItemSage or a baseline, in evaluation mode on the CPU.
        tokenizer: The vocabularies that the encoder was trained with.
        search: The search encoder that the run trained.
        result: The run's figures.
        config: The run's options.
    """

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
        """The model, if it can be released.

        Raises:
            ArtifactError: If the run trained a baseline, or only images or only text: serving would send it inputs
                that it never saw.
        """
        if not isinstance(self.encoder, ItemSage) or not (self.config.images and self.config.text):
            raise ArtifactError(
                f"this run trained {self.config.model} with images={self.config.images}, text={self.config.text}: "
                "it is meant for comparison; only ItemSage with images and text can be released"
            )
        return self.encoder

    def save(self, folder: Path) -> None:
        """Write the run's folder atomically.

        Raises:
            ArtifactError: If the folder exists already or cannot be written.
        """
        refuse_existing(folder)
        try:
            with atomic_folder(folder) as partial:
                self.tokenizer.save(partial / "tokenizer.json")
                self.search.save(partial)
                self.write_model(partial)
        except (OSError, SafetensorError) as error:
            raise ArtifactError(f"the run {folder} cannot be written: {error}") from None

    def write_model(self, folder: Path) -> None:
        """Write model and reports, without tokenizer and search encoder, into a folder that nobody reads yet."""
        from safetensors.torch import save_file

        save_file(self.encoder.state_dict(), folder / "model.safetensors")
        (folder / "model.json").write_bytes(msgspec.json.encode(asdict(self.encoder.config)))
        write_json(folder / "config.json", self.config)
        write_json(folder / "environment.json", environment())
        write_json(folder / "metrics.json", self.result)
        draw_losses(self.result.loss, folder / "loss.svg")

    @classmethod
    def load(cls, folder: Path) -> TrainedModel:
        """Read a run's folder.

        Raises:
            ArtifactError: If a file is missing, truncated or of another kind.
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
            raise ArtifactError(f"{folder} is not a complete training run: {error}") from None
        if sizes.vocabulary != (size := search.tokenizer.size):
            raise ArtifactError(f"{folder}: the model has {sizes.vocabulary} ids, its tokenizer {size}")
        return cls(encoder, search.tokenizer, search, result, config)


def refuse_existing(folder: Path) -> None:
    """Check that a run does not exist yet.

    Raises:
        ArtifactError: If it exists.
    """
    if folder.exists():
        raise ArtifactError(f"{folder} exists already; a run never replaces another")


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON, for people to read. Not atomic."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(value)))

"""Read a release back from its folder."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from inference.errors import ArtifactError
from inference.releases.tensors import read_tensors
from inference.tokenizer import Tokenizer

if TYPE_CHECKING:  # the functions import torch: `release_metadata` needs none
    from inference.model import ItemSage, ItemSageConfig

FORMAT = "sagelift-itemsage-1"


class ReleaseConfig(msgspec.Struct, frozen=True):
    """The `config.json` of a release."""

    format: str
    created: datetime  # UTC
    visual_version: str
    model: dict[str, int]  # the fields of `ItemSageConfig`
    metadata: dict[str, Any]  # from the trainer


def load_release(path: Path) -> tuple[ItemSage, Tokenizer, ReleaseConfig]:
    """Read a release: the model (float32, CPU, evaluation mode), its tokenizer and its configuration.

    Raises:
        ArtifactError: If a file is missing or truncated, or the files do not belong together.
    """
    import torch
    from safetensors.torch import load_file

    from inference.model import ItemSage, ItemSageConfig

    config = _load_config(path / "config.json")
    try:
        sizes = ItemSageConfig(**config.model)
    except (TypeError, ValueError) as error:
        raise ArtifactError(f"{path / 'config.json'} does not describe an ItemSage model: {error}") from None
    tokenizer = Tokenizer.load(path / "tokenizer.json")
    check_vocabulary(sizes, tokenizer, str(path / "config.json"))
    weights = read_tensors(path / "model.safetensors", load_file)
    with torch.random.fork_rng(devices=[]):  # the initial weights are random and are replaced below
        model = ItemSage(sizes)
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    actual = {name: tuple(value.shape) for name, value in weights.items()}
    for name in sorted(expected.keys() | actual.keys()):
        if expected.get(name) != actual.get(name):
            raise ArtifactError(
                f"{path / 'model.safetensors'} does not fit its config.json: {name} is {actual.get(name)}, "
                f"must be {expected.get(name)}; export the model again"
            )
    model.load_state_dict(weights)
    return model.eval().requires_grad_(False), tokenizer, config


def release_metadata(path: Path) -> dict[str, Any]:
    """Return the metadata that the trainer stored in a release.

    Args:
        path: The release's folder.

    Raises:
        ArtifactError: If the configuration is missing or damaged.
    """
    return _load_config(path / "config.json").metadata


def check_vocabulary(config: ItemSageConfig, tokenizer: Tokenizer, owner: str) -> None:
    """Check that a model and a tokenizer have the same number of ids.

    Args:
        config: The model's sizes.
        tokenizer: The tokenizer.
        owner: What has these sizes, for the message.

    Raises:
        ArtifactError: If they differ.
    """
    if tokenizer.size != config.vocabulary:
        raise ArtifactError(
            f"the tokenizer has {tokenizer.size} ids but {owner} has {config.vocabulary}: they come from different "
            "trainings"
        )


def _load_config(path: Path) -> ReleaseConfig:
    try:
        raw = path.read_bytes()
        tag = msgspec.json.decode(raw, type=dict[str, Any]).get("format")
        if tag != FORMAT:
            raise ArtifactError(f"{path} has format {tag!r}, must be {FORMAT!r}; export the model again")
        return msgspec.json.decode(raw, type=ReleaseConfig)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise ArtifactError(f"{path} is not a release's configuration or is truncated ({error})") from None

"""The encoders that can be trained, by name, and their sizes."""

from __future__ import annotations

from inference.errors import InputError
from inference.model import ItemSage, ItemSageConfig
from inference.training.baselines import MLPConcatMLP, SumMLP
from inference.training.config import TrainConfig

Encoder = ItemSage | SumMLP | MLPConcatMLP


def build_encoder(name: str, config: ItemSageConfig) -> Encoder:
    """Return a new encoder.

    Args:
        name: A value of `TrainConfig.model`.
        config: The encoder's sizes.

    Raises:
        InputError: If the name is unknown.
    """
    kinds: dict[str, type[Encoder]] = {"itemsage": ItemSage, "sum_mlp": SumMLP, "mlp_concat_mlp": MLPConcatMLP}
    if name not in kinds:
        raise InputError(f"there is no model {name!r}; it must be one of {', '.join(kinds)}")
    return kinds[name](config)


def encoder_sizes(config: TrainConfig, vocabulary: int) -> ItemSageConfig:
    """Return the encoder's sizes for a configuration and a number of token ids."""
    return ItemSageConfig(
        vocabulary=vocabulary,
        table_rows=table_rows(vocabulary),
        width=config.width,
        heads=config.heads,
        feedforward=config.feedforward,
        head_hidden=config.head_hidden,
        layers=config.layers,
    )


def table_rows(vocabulary: int) -> int:
    """Return the number of rows of the hash table: the paper's 100,000, scaled down with the vocabulary."""
    return min(100_000, max(1_000, vocabulary))

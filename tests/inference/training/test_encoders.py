"""The encoders by name, and their sizes."""

from __future__ import annotations

import pytest

from inference.errors import InputError
from inference.model import ItemSage, ItemSageConfig
from inference.training.baselines import MLPConcatMLP, SumMLP
from inference.training.config import TrainConfig
from inference.training.encoders import build_encoder, encoder_sizes, table_rows

SIZES = ItemSageConfig(200, table_rows=100, width=32, heads=4, feedforward=64, head_hidden=64)


def test_a_name_gives_its_encoder_and_an_unknown_one_is_refused() -> None:
    for name, kind in (("itemsage", ItemSage), ("sum_mlp", SumMLP), ("mlp_concat_mlp", MLPConcatMLP)):
        assert type(build_encoder(name, SIZES)) is kind
    with pytest.raises(InputError, match="no model 'gpt'; it must be one of itemsage, sum_mlp, mlp_concat_mlp"):
        build_encoder("gpt", SIZES)


def test_the_sizes_are_those_of_the_configuration() -> None:
    sizes = encoder_sizes(TrainConfig(width=32, heads=2, feedforward=48, head_hidden=40, layers=3), 5_000)
    assert (sizes.width, sizes.heads, sizes.feedforward, sizes.head_hidden, sizes.layers) == (32, 2, 48, 40, 3)
    assert (sizes.vocabulary, sizes.table_rows) == (5_000, 5_000)


def test_the_table_has_the_papers_rows_at_most_and_a_thousand_at_least() -> None:
    assert [table_rows(size) for size in (10, 5_000, 1_264_000)] == [1_000, 5_000, 100_000]

"""The options of a training run, and that each choice trains."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from inference.errors import ArtifactError, InputError
from inference.model import ItemSage
from inference.training.config import TrainConfig
from inference.training.dataset import TrainingSet
from inference.training.evaluation import embed_all
from inference.training.loop import Trainer
from inference.training.pipeline import train
from tests.inference.builders import catalogue, engagements

BRIEF = TrainConfig(
    steps=3, batch=32, random_negatives=20, search_steps=2, width=32, heads=4, feedforward=32, head_hidden=32
)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "gpt"}, "model ('gpt') must be one of itemsage, sum_mlp, mlp_concat_mlp"),
        ({"loss": "triplet"}, "loss ('triplet') must be one of separate, shared, in_batch, random"),
        ({"precision": "int4"}, "precision ('int4') must be one of"),
        ({"images": False, "text": False}, "both false"),
        ({"prefixes": (32, 256)}, "prefixes (256) must be between 1 and 255"),
        ({"layers": 0}, "layers (0) must be at least 1"),
        ({"width": 0}, "width (0) must be at least 1"),
        ({"width": 30}, "width (30) must be a multiple of heads (4)"),
        ({"heads": 0}, "heads (0) must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate (0.0) must be above 0"),
        ({"learning_rate": math.inf}, "learning_rate (inf) must be above 0"),
        ({"weight_decay": -1.0}, "weight_decay (-1.0) must be at least 0"),
        ({"prefix_weight": math.nan}, "prefix_weight (nan) must be at least 0"),
        ({"warmup_steps": -1}, "warmup_steps (-1) must be at least 0"),
        ({"seed": -1}, "seed (-1) must be between 0 and"),
        ({"bigrams": -1}, "bigrams (-1) must be at least 0"),
        ({"unigrams": 0, "bigrams": 0, "trigrams": 0}, "the vocabulary would be empty"),
        ({"checkpoint_every": 0}, "checkpoint_every (0) must be at least 1"),
        ({"tasks": {"smell/click": 1.0}}, "task 'smell/click' must be a query kind (image or search)"),
        ({"tasks": {"image/": 1.0}}, "task 'image/' must be"),
        ({"tasks": {"image/click": -1.0}}, "the share of task 'image/click' (-1.0)"),
        ({"tasks": {"image/click": math.nan}}, "the share of task 'image/click' (nan)"),
        ({"tasks": {"image/click": 0.0}}, "no task has a share above 0"),
    ],
)
def test_an_invalid_value_is_refused_with_the_name_of_its_field(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as refused:
        TrainConfig(**change)
    assert message in str(refused.value)


def test_it_is_plain_data() -> None:
    config = TrainConfig(prefixes=(32, 64), tasks={"image/click": 2.0, "search/rent": 1.0}, loss="shared")
    assert msgspec.json.decode(msgspec.json.encode(config), type=TrainConfig) == config


@pytest.mark.parametrize(
    "change",
    [
        {"loss": "shared"},
        {"loss": "in_batch"},
        {"loss": "random", "log_q": False},
        {"prefixes": (32, 64, 128)},
        {"precision": "bfloat16"},
        {"model": "sum_mlp"},
        {"model": "mlp_concat_mlp"},
        {"layers": 2},
        {"encoder_chunk": 5, "loss_chunk": 3},
    ],
    ids=str,
)
def test_every_choice_trains_and_changes_the_weights(change: dict[str, Any]) -> None:
    usual = train(catalogue(), engagements(), BRIEF)
    other = train(catalogue(), engagements(), msgspec.structs.replace(BRIEF, **change))
    assert all(math.isfinite(x) for x in other.result.loss)
    table = other.encoder.text.table
    if "encoder_chunk" in change:  # another order of the same sums
        torch.testing.assert_close(table, usual.encoder.text.table, atol=2e-3, rtol=0)
        assert other.result.loss == pytest.approx(usual.result.loss, abs=2e-3)
    else:
        assert table.shape != usual.encoder.text.table.shape or not torch.equal(table, usual.encoder.text.table)


@pytest.mark.parametrize("left_out", ["images", "text"])
def test_a_model_of_one_modality_never_sees_the_other_and_is_not_released(left_out: str) -> None:
    config = msgspec.structs.replace(BRIEF, **{left_out: False})
    trained = train(catalogue(), engagements(), config)
    packed = TrainingSet.build(catalogue(), engagements(), config).packed
    whole, blind = embed_all(trained.encoder, packed), embed_all(trained.encoder, packed, **{left_out: False})
    assert not np.allclose(whole, blind, atol=1e-3), "else there was nothing to leave out"
    untouched = {"images": "image_projection.bias", "text": "text.importance"}[left_out]
    moved = trained.encoder.state_dict()[untouched] - initial(config).state_dict()[untouched]
    assert moved.abs().max() < 1e-3, "weight decay alone"
    with pytest.raises(ArtifactError, match=f"{left_out}=False"):
        _ = trained.model


def initial(config: TrainConfig) -> torch.nn.Module:
    data = TrainingSet.build(catalogue(), engagements(), config)
    queries = np.zeros((len(data.pairs.queries), 256), np.float32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed + 1)
        return Trainer(data.packed, data.pairs, queries, config, np.random.default_rng(0)).encoder


def test_a_baseline_is_not_released_and_itemsage_is() -> None:
    with pytest.raises(ArtifactError, match="this run trained sum_mlp"):
        _ = train(catalogue(), engagements(), msgspec.structs.replace(BRIEF, model="sum_mlp")).model
    assert isinstance(train(catalogue(), engagements(), BRIEF).model, ItemSage)


def test_tasks_without_a_share_are_evaluated_but_not_trained() -> None:
    shares = {"image/click": 1.0, "image/save": 0.0, "image/checkout": 0.0, "search/click": 0.0}
    result = train(catalogue(), engagements(), msgspec.structs.replace(BRIEF, tasks=shares)).result
    assert set(result.itemsage.recall) == set(shares)
    with pytest.raises(InputError, match="is not a valid engagement: kind and action must be one of image/click,"):
        train(catalogue(), engagements(), msgspec.structs.replace(BRIEF, tasks={"image/click": 1.0}))

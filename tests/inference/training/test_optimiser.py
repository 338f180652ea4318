"""The optimiser: its learning-rate schedule and its state."""

from __future__ import annotations

import math

import msgspec
import pytest
import torch

from inference.errors import InputError
from inference.training.config import TrainConfig
from inference.training.optimiser import Optimiser

CONFIG = TrainConfig(learning_rate=0.1, warmup_steps=4, weight_decay=0.0)


def moves(steps: int, config: TrainConfig = CONFIG) -> list[float]:
    """How far each step moves a weight with a constant gradient; for AdamW this is the learning rate."""
    weight = torch.nn.Linear(1, 1, bias=False)
    optimiser = Optimiser([weight], config, steps)
    distances = []
    for done in range(steps):
        before = weight.weight.item()
        optimiser.step(weight.weight.sum(), done)
        distances.append(before - weight.weight.item())
    return distances


def test_the_rate_rises_linearly_and_decays_as_a_cosine() -> None:
    expected = [0.025, 0.05, 0.075, 0.1] + [0.05 * (1 + math.cos(math.pi * n / 36)) for n in range(36)]
    assert moves(40) == pytest.approx(expected, abs=1e-4)


def test_the_warm_up_takes_at_most_a_fifth_of_the_steps() -> None:
    assert moves(10, msgspec.structs.replace(CONFIG, warmup_steps=50))[:2] == pytest.approx([0.05, 0.1], abs=1e-4)


def test_a_restored_optimiser_continues_exactly() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 2)
    batches = torch.randn(6, 5, 3)
    first = Optimiser([layer], CONFIG, 6)
    for done in range(3):
        first.step(layer(batches[done]).square().mean(), done)
    copy = torch.nn.Linear(3, 2)
    copy.load_state_dict(layer.state_dict())
    second = Optimiser([copy], CONFIG, 6)
    second.restore({name: value.clone() for name, value in first.state().items()})
    for done in range(3, 6):
        first.step(layer(batches[done]).square().mean(), done)
        second.step(copy(batches[done]).square().mean(), done)
    assert torch.equal(layer.weight, copy.weight)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_an_error(loss: float) -> None:
    optimiser = Optimiser([torch.nn.Linear(1, 1)], CONFIG, 1)
    assert optimiser.check(0.5) == 0.5
    with pytest.raises(InputError, match=f"the loss is {loss}; lower learning_rate"):
        optimiser.check(loss)

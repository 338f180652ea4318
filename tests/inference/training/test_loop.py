"""The training loop: its steps, its stops, and a state that continues exactly."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import torch

from inference.errors import InputError
from inference.training.config import TrainConfig
from inference.training.dataset import TrainingSet
from inference.training.distributed import World
from inference.training.loop import Trainer
from tests.inference.builders import catalogue, engagements, unit

CONFIG = TrainConfig(
    steps=6,
    batch=16,
    random_negatives=20,
    warmup_steps=1,
    width=16,
    heads=2,
    feedforward=16,
    head_hidden=16,
    prefixes=(16,),
    checkpoint_every=2,
)


@pytest.fixture(scope="module")
def data() -> TrainingSet:
    return TrainingSet.build(catalogue(6), engagements(6), CONFIG)


def trainer_of(data: TrainingSet, config: TrainConfig = CONFIG, world: World | None = None) -> Trainer:
    torch.manual_seed(3)
    queries = unit(np.random.default_rng(0), len(data.pairs.queries))
    return Trainer(data.packed, data.pairs, queries, config, np.random.default_rng(5), world=world)


def weights(trainer: Trainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.encoder.parameters()])


def test_a_run_makes_all_steps_and_the_loss_falls(data: TrainingSet) -> None:
    trainer = trainer_of(data, msgspec.structs.replace(CONFIG, steps=30, learning_rate=3e-3))
    steps: list[int] = []
    trainer.run(steps.append)
    assert steps == list(range(1, 31))
    assert np.mean(trainer.losses[-5:]) < np.mean(trainer.losses[:5])


def test_a_run_stops_after_the_requested_steps_and_continues_there(data: TrainingSet) -> None:
    whole, halves = trainer_of(data), trainer_of(data)
    whole.run(lambda done: None)
    halves.run(lambda done: None, until=3)
    assert len(halves.losses) == 3
    halves.run(lambda done: None)
    assert halves.losses == whole.losses
    assert torch.equal(weights(halves), weights(whole))


def test_a_restored_state_continues_bit_by_bit(data: TrainingSet) -> None:
    whole = trainer_of(data)
    saved: list[tuple[int, dict[str, torch.Tensor], bytes]] = []

    def save() -> None:
        tensors, plain = whole.state()
        copies = {name: tensor.clone() for name, tensor in tensors.items()}
        saved.append((len(whole.losses), copies, msgspec.json.encode(plain)))

    whole.run(lambda done: None, save)
    assert [done for done, _, _ in saved] == [2, 4, 6]
    _, tensors, plain = saved[1]
    restored = trainer_of(data)
    restored.run(lambda done: None, until=1)  # something to overwrite
    restored.restore(tensors, msgspec.json.decode(plain))
    assert len(restored.losses) == 4
    restored.run(lambda done: None)
    assert restored.losses == whole.losses
    assert torch.equal(weights(restored), weights(whole))


def test_the_state_of_another_model_is_refused(data: TrainingSet) -> None:
    tensors, plain = trainer_of(data).state()
    with pytest.raises(RuntimeError, match="size mismatch"):
        trainer_of(data, msgspec.structs.replace(CONFIG, width=32)).restore(tensors, plain)


def test_the_loss_is_the_same_when_products_are_embedded_in_chunks(data: TrainingSet) -> None:
    at_once, in_chunks = (trainer_of(data, msgspec.structs.replace(CONFIG, encoder_chunk=n)) for n in (2048, 7))
    steps = at_once.prepare(), in_chunks.prepare()
    assert steps[0].inputs is not None
    assert steps[1].inputs is None
    losses = at_once.loss(steps[0]), in_chunks.loss(steps[1])
    for loss in losses:
        loss.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(*losses)
    for one, other in zip(at_once.encoder.parameters(), in_chunks.encoder.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-6)


def test_a_step_of_one_process_embeds_each_product_once(data: TrainingSet) -> None:
    step = trainer_of(data).prepare()
    assert len(step.query) == CONFIG.batch
    assert len(set(step.rows.tolist())) == len(step.rows) == step.products


def test_a_batch_that_the_processes_cannot_share_is_refused(data: TrainingSet) -> None:
    with pytest.raises(InputError, match=r"batch \(16\) must be a multiple of the 3 processes"):
        trainer_of(data, world=World(0, 3))

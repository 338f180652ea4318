"""One process of a step of training; as a program (`... one_step OUT`) it writes loss and gradients to a folder."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import numpy as np
import torch
from safetensors.torch import save_file

from inference.distributed import World, joined
from inference.train import TrainConfig, TrainingSet
from inference.trainer import Trainer
from tests.inference.builders import catalogue, engagements, unit

CONFIG = TrainConfig(batch=32, random_negatives=41, width=32, heads=4, feedforward=32, head_hidden=32, prefixes=(32,))


def gradients(world: World, encoder_chunk: int) -> dict[str, torch.Tensor]:
    """The loss and every weight's gradient of the first batch."""
    config = msgspec.structs.replace(CONFIG, encoder_chunk=encoder_chunk)
    data = TrainingSet.build(catalogue(), engagements(), config)
    queries = unit(np.random.default_rng(0), len(data.pairs.queries))
    torch.manual_seed(3)
    trainer = Trainer(data.packed, data.pairs, queries, config, np.random.default_rng(5), world=world)
    loss = trainer.loss(trainer.prepare())
    loss.backward()  # type: ignore[no-untyped-call]
    found = {name: p.grad for name, p in trainer.encoder.named_parameters()}
    found["temperature"] = trainer.temperature.log_scale.grad
    return {"loss": world.mean(loss.detach().clone()), **{n: g for n, g in found.items() if g is not None}}


if __name__ == "__main__":
    torch.set_num_threads(1)
    with joined(torch.device("cpu")) as joined_world:
        for chunk in (2048, 7):
            got = gradients(joined_world, chunk)
            if joined_world.rank == 0:
                save_file(got, Path(sys.argv[1]) / f"{chunk}.safetensors")

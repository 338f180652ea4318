"""The loss and the gradients of one step of training, alone or as one of two processes."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import numpy as np
import torch
from safetensors.torch import save_file

from inference.training.config import TrainConfig
from inference.training.dataset import TrainingSet
from inference.training.distributed import World, joined
from inference.training.loop import Trainer
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
    result = {name: p.grad for name, p in trainer.encoder.named_parameters()}
    result["temperature"] = trainer.temperature.log_scale.grad
    return {"loss": world.mean(loss.detach().clone()), **{n: g for n, g in result.items() if g is not None}}


def write_gradients(folder: Path, rank: int, port: str) -> None:
    """`gradients` in one of two processes, with batches embedded at once and in chunks."""
    be_one_of_two(rank, port)
    with joined(torch.device("cpu")) as world:
        for chunk in (2048, 7):
            got = gradients(world, chunk)
            if rank == 0:
                save_file(got, folder / f"{chunk}.safetensors")


def be_one_of_two(rank: int, port: str) -> None:
    """Set the environment as `torchrun` does for each of two processes."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo"}
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    torch.set_num_threads(1)

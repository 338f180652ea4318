"""Train in memory: fit the vocabularies, train the search encoder, freeze it, train ItemSage, evaluate it.

The same inputs, configuration, seed and number of threads give the same weights.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch

from inference.inputs import ProductInput
from inference.queries import SearchQueries
from inference.training.config import TrainConfig
from inference.training.dataset import TrainingSet
from inference.training.distributed import World
from inference.training.engagements import Engagement
from inference.training.evaluation import evaluate_encoder, query_vectors
from inference.training.loop import Trainer
from inference.training.progress import OnProgress, no_progress
from inference.training.result import TrainedModel, TrainResult
from inference.training.search import train_search


def train(
    products: Sequence[ProductInput],
    engagements: Sequence[Engagement],
    config: TrainConfig,
    on_progress: OnProgress = no_progress,
) -> TrainedModel:
    """Train on a catalogue and its engagements, in memory.

    Args:
        products: The catalogue.
        engagements: What shoppers did with its products.
        config: The options of the training.
        on_progress: Called after each step.

    Raises:
        InputError: If there is no product, no usable engagement, no word in the catalogue, or a task without pairs; if
            the loss is not finite.
    """
    started = time.monotonic()
    data = TrainingSet.build(products, engagements, config)
    with torch.random.fork_rng(devices=[]):  # keeps the caller's random numbers
        search = train_search(data, config, on_progress)
        trainer = new_trainer(data, search, config)
        trainer.run(lambda done: on_progress("ItemSage", done, config.steps))
    return finish(data, search, trainer, config, time.monotonic() - started)


def new_trainer(
    data: TrainingSet,
    search: SearchQueries,
    config: TrainConfig,
    device: torch.device | None = None,
    world: World | None = None,
) -> Trainer:
    """Return a trainer with initial weights; reseeds torch's random numbers.

    Args:
        data: The training set.
        search: The frozen search encoder.
        config: The options of the training.
        device: The device of the encoder; None for the CPU.
        world: The processes that train together; None for this process alone.
    """
    queries = query_vectors(data.pairs, data.packed, search)
    torch.manual_seed(config.seed + 1)
    rng = np.random.default_rng([config.seed, 1])
    return Trainer(data.packed, data.pairs, queries, config, rng, device=device, world=world)


def finish(
    data: TrainingSet, search: SearchQueries, trainer: Trainer, config: TrainConfig, seconds: float
) -> TrainedModel:
    """Evaluate a trained encoder and return the finished run.

    Args:
        data: The training set.
        search: The frozen search encoder.
        trainer: The trainer, after its last step. Its encoder moves to the CPU.
        config: The options of the training.
        seconds: How long the training took.
    """
    encoder, pairs = trainer.encoder.cpu(), data.pairs
    evaluation = evaluate_encoder(encoder, data, search, config)
    result = TrainResult(
        parameters=sum(p.numel() for p in encoder.parameters()),
        vocabulary=data.tokenizer.size,
        training_pairs=len(pairs.training),
        held_out_pairs=int(pairs.held_out.sum()),
        seconds=round(seconds, 3),
        loss=[round(x, 4) for x in trainer.losses],
        itemsage=evaluation.itemsage,
        sum=evaluation.sum,
    )
    return TrainedModel(encoder, data.tokenizer, search, result, config)

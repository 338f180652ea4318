"""Train the search encoder: texts against the frozen image space. It is frozen before ItemSage is trained."""

from __future__ import annotations

import numpy as np
import torch

from inference.arrays import Int64Array
from inference.queries import SearchEncoder, SearchQueries, flatten_bags
from inference.training.config import TrainConfig
from inference.training.dataset import TrainingSet
from inference.training.encoders import table_rows
from inference.training.losses import Temperature, sampled_softmax
from inference.training.optimiser import Optimiser
from inference.training.progress import OnProgress, no_progress


def train_search(data: TrainingSet, config: TrainConfig, on_progress: OnProgress = no_progress) -> SearchQueries:
    """Train texts (searches and product titles) against the main image of the product that they lead to.

    Without images there is no image space to learn: the encoder then stays a random projection of the texts.

    Args:
        data: The training set.
        config: Steps, batch size, learning rate and seed.
        on_progress: Called after each step.

    Raises:
        InputError: If training diverges.
    """
    torch.manual_seed(config.seed)
    rng = np.random.default_rng([config.seed, 0])
    tokenizer, packed, _ = data
    encoder = SearchEncoder(tokenizer.size, table_rows(tokenizer.size))
    main, has_image = packed.main_images()
    bags, target = _texts(data)
    usable = np.flatnonzero(has_image[target] & np.array([len(b) > 0 for b in bags]))
    if len(usable) < 2:
        return SearchQueries(encoder, tokenizer)
    temperature = Temperature()
    optimiser = Optimiser([encoder, temperature], config, config.search_steps)
    for step in range(config.search_steps):
        chosen = rng.choice(usable, min(config.batch, len(usable)), replace=False)
        images = torch.from_numpy(main[target[chosen]])
        log_q = torch.zeros(len(chosen))
        loss = sampled_softmax(
            encoder(*flatten_bags([bags[i] for i in chosen])),
            images,
            images,
            scale=temperature(),
            positive_log_q=log_q,
            negative_log_q=log_q,
            masked=torch.from_numpy(target[chosen][:, None] == target[chosen][None]),
        )
        optimiser.check(loss.item())
        optimiser.step(loss, step)
        on_progress("search encoder", step + 1, config.search_steps)
    return SearchQueries(encoder, tokenizer)


def _texts(data: TrainingSet) -> tuple[list[list[int]], Int64Array]:
    """Return the token ids of all searches and titles, and the row of the product that each leads to."""
    tokenizer, packed, pairs = data
    rows = pairs.training[[pairs.queries[q][0] == "search" for q in pairs.query[pairs.training]]]
    searches = [tokenizer.ids(pairs.queries[q][1]) for q in pairs.query[rows]]
    bags = searches + [title.tolist() for title in packed.titles()]
    return bags, np.concatenate([pairs.product[rows], np.arange(len(packed))])

"""The search encoder's training: texts against the frozen image space, before ItemSage is trained and then frozen."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from inference.dataset import PackedProducts, Pairs
from inference.losses import Temperature, sampled_softmax
from inference.queries import SearchEncoder, SearchQueries, flatten_bags
from inference.tokenizer import Tokenizer
from inference.train_config import TrainConfig
from inference.trainer import Optimiser, table_rows


def train_search(
    tokenizer: Tokenizer,
    packed: PackedProducts,
    pairs: Pairs,
    config: TrainConfig,
    on_progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> SearchQueries:
    """Texts (searches, and each product's title) against the frozen main image of the product that they lead to.

    Without images there is no image space: then it stays a random projection of the texts.

    Raises:
        InputError: training diverged.
    """
    torch.manual_seed(config.seed)
    rng = np.random.default_rng([config.seed, 0])
    encoder = SearchEncoder(tokenizer.size, table_rows(tokenizer.size))
    main, has_image = packed.main_images()
    rows = pairs.training[[pairs.queries[q][0] == "search" for q in pairs.query[pairs.training]]]
    bags = [tokenizer.ids(pairs.queries[q][1]) for q in pairs.query[rows]] + [t.tolist() for t in packed.titles()]
    target = np.concatenate([pairs.product[rows], np.arange(len(packed))])
    usable = np.flatnonzero(has_image[target] & np.array([len(b) > 0 for b in bags]))
    if len(usable) < 2:
        return SearchQueries(encoder, tokenizer)  # without images a random projection of the texts must do
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

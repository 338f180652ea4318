"""ItemSage's encoder on one CPU thread: how much faster than the textbook forward pass, and as exact.

The textbook: eager float32, all twenty image slots, the last layer computed for every position. Ours: what Triton runs
(inference/triton_models/itemsage): the last layer for [CLS] only, bfloat16 where the hardware has it, and products
grouped by their number of images so that empty slots are not computed. Full model, full vocabulary, batch 256.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.harness import Row, compared, cpu_clock, figure, in_turn
from inference.client import bucketed
from inference.model import ItemSage, ItemSageConfig
from inference.visual import has_bfloat16

BATCH = 256
SLOTS = 20
FIELD_TOKENS = (12, 120, 2, 8, 6, 6, 2, 2, 2, 1, 2, 1)  # a product with a description of 25 words

Inputs = tuple[Tensor, Tensor, Tensor, Tensor]


def rows(say: Callable[[str], None]) -> list[Row]:
    """`encoder_speedup`, `encoder_min_cosine`, `bucketing_speedup`."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    reference = ItemSage(ItemSageConfig()).eval()
    served = copy.deepcopy(reference)
    if has_bfloat16(torch.device("cpu")):
        served = served.to(torch.bfloat16)
    else:
        say("this CPU has no bfloat16: the served model is float32")
    with torch.inference_mode():
        return [*_speedup(reference, served, say), _bucketing(served, say)]


def textbook(model: ItemSage, images: Tensor, image_counts: Tensor, token_ids: Tensor, lengths: Tensor) -> Tensor:
    """The same numbers the long way: every position through the last layer."""
    batch, slots = images.shape[:2]
    parts = [
        model.cls.expand(batch, 1, -1),
        model.image_projection(images),
        model.text_projection(model.text_fields(token_ids, lengths)),
    ]
    present = torch.cat(
        [torch.ones(batch, 1, dtype=torch.bool), torch.arange(slots) < image_counts[:, None], lengths > 0], 1
    )
    x = torch.cat(parts, 1)
    for layer in model.layers:
        x = layer(x, present)
    return F.normalize(model.head(x[:, 0]), dim=1)


def _products(number: int, slots: int, seed: int) -> Inputs:
    generator = torch.Generator().manual_seed(seed)
    # Most products have one to three images, a few have many (mean 2.9).
    share = torch.from_numpy(np.random.default_rng(seed).geometric(0.35, number)).clamp(max=SLOTS)
    images = F.normalize(torch.randn(number, slots, 256, generator=generator), dim=2)
    lengths = torch.tensor([FIELD_TOKENS]).repeat(number, 1)
    ids = torch.randint(0, 1_264_000, (number, sum(FIELD_TOKENS)), generator=generator)
    return images, share, ids, lengths


def _speedup(reference: ItemSage, served: ItemSage, say: Callable[[str], None]) -> list[Row]:
    say(f"batch of {BATCH}, {SLOTS} image slots")
    images, counts, ids, lengths = _products(BATCH, SLOTS, seed=1)
    exact = textbook(reference, images, counts, ids, lengths)
    cosine = F.cosine_similarity(exact, served(images, counts, ids, lengths), dim=1).min().item()
    seconds = in_turn(
        {
            "textbook": lambda: textbook(reference, images, counts, ids, lengths),
            "ours": lambda: served(images, counts, ids, lengths),
        },
        runs=7,
        clock=cpu_clock,
    )
    rate = {name: [BATCH / s for s in taken] for name, taken in seconds.items()}
    return [
        compared("encoder_speedup", "products/s", rate["ours"], "textbook", rate["textbook"], at_least=8.0),
        figure("encoder_min_cosine", "", cosine, at_least=0.9999),
    ]


def _bucketing(served: ItemSage, say: Callable[[str], None]) -> Row:
    number = 4 * BATCH
    say(f"{number} products with 1 to {SLOTS} images: all {SLOTS} slots computed, and grouped by number of images")
    images, counts, ids, lengths = _products(number, SLOTS, seed=2)

    # Batches are made before the clock runs: gathering them costs both alike, and Triton gets them ready-made.
    def prepared(groups: list[np.ndarray], width: int | None) -> list[Inputs]:
        parts = [torch.from_numpy(group) for group in groups]
        return [(images[at, : width or int(counts[at].max())], counts[at], ids[at], lengths[at]) for at in parts]

    all_slots = prepared([np.arange(s, s + BATCH) for s in range(0, number, BATCH)], SLOTS)
    grouped = prepared(list(bucketed(counts.numpy().astype(np.int32), BATCH)), None)
    seconds = in_turn(
        {
            "all slots": lambda: [served(*batch) for batch in all_slots],
            "grouped": lambda: [served(*batch) for batch in grouped],
        },
        runs=5,
        clock=cpu_clock,
    )
    rate = {name: [number / s for s in taken] for name, taken in seconds.items()}
    return compared("bucketing_speedup", "products/s", rate["grouped"], "all slots", rate["all slots"], at_least=1.8)

"""ItemSage's encoder on one CPU thread, against the textbook forward pass.

Measures products per second; the goal is at least 8 times the textbook's rate, with cosines of at least 0.9999.

The textbook: eager float32, all twenty image slots, the last layer for every position. Ours is what Triton runs
(inference/triton_models/itemsage): the last layer for [CLS] only, bfloat16 if the hardware has it, and products grouped
by their number of images, so that empty slots are not computed. Full model, full vocabulary, batches of 256.

Grouping saves little of the forward pass, because an empty slot costs only its projection: `bucketing_in_process`. It
helps where every slot is also stacked, sent, read and copied: `bucketing_speedup` compares the client through a real
Triton with requests that fill all twenty slots, in CPU seconds of the client, the server and its children; the goal is
1.8. A cheaper empty slot makes this ratio smaller, so `catalogue_speedup` measures both effects together: grouped
products against the textbook with all slots; the goal is 14.4.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.embed import Catalogue, as_served, serving
from benchmarks.harness import Row, Say, compared, cpu_clock, figure, in_turn
from inference.model import ItemSage, ItemSageConfig
from inference.releases.repository import ITEMSAGE
from inference.triton.batching import group_by_size
from inference.triton.client import TritonClient
from inference.triton.dispatch import Job
from inference.triton.requests import Chunk

BATCH = 256
SLOTS = 20
FIELD_TOKENS = (12, 120, 2, 8, 6, 6, 2, 2, 2, 1, 2, 1)  # a product with a description of 25 words

Inputs = tuple[Tensor, Tensor, Tensor, Tensor]


def rows(say: Say) -> list[Row]:
    """Measure all figures of the encoder and of grouping."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    reference = ItemSage(ItemSageConfig()).eval()
    served = as_served(reference, say)
    with torch.inference_mode():
        return [*_speedup(reference, served, say), *_bucketing(reference, served, say), _served_bucketing(say)]


def textbook(model: ItemSage, images: Tensor, image_counts: Tensor, token_ids: Tensor, lengths: Tensor) -> Tensor:
    """Compute the same vectors with every position in the last layer."""
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


def _speedup(reference: ItemSage, served: ItemSage, say: Say) -> list[Row]:
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


def _bucketing(reference: ItemSage, served: ItemSage, say: Say) -> list[Row]:
    number = 4 * BATCH
    say(f"{number} products with 1 to {SLOTS} images: all {SLOTS} slots computed, and grouped by number of images")
    images, counts, ids, lengths = _products(number, SLOTS, seed=2)

    # Batches are made before the clock starts: gathering costs both the same, and Triton receives them ready.
    def prepared(groups: list[np.ndarray], width: int | None) -> list[Inputs]:
        parts = [torch.from_numpy(group) for group in groups]
        return [(images[at, : width or int(counts[at].max())], counts[at], ids[at], lengths[at]) for at in parts]

    all_slots = prepared([np.arange(s, s + BATCH) for s in range(0, number, BATCH)], SLOTS)
    grouped = prepared(list(group_by_size(counts.numpy().astype(np.int32), BATCH)), None)
    seconds = in_turn(
        {
            "textbook": lambda: [textbook(reference, *batch) for batch in all_slots],
            "all slots": lambda: [served(*batch) for batch in all_slots],
            "grouped": lambda: [served(*batch) for batch in grouped],
        },
        runs=5,
        clock=cpu_clock,
    )
    rate = {name: [number / s for s in taken] for name, taken in seconds.items()}
    return [
        compared("bucketing_in_process", "products/s", rate["grouped"], "all slots", rate["all slots"]),
        # 8 for the forward pass times 1.8 for grouping.
        compared("catalogue_speedup", "products/s", rate["grouped"], "textbook", rate["textbook"], at_least=14.4),
    ]


def _served_bucketing(say: Say) -> Row:
    with serving(say) as served, TritonClient(served.triton.grpc) as client:
        number = len(served.catalogue.images)
        say(f"{number} products through Triton: all {SLOTS} slots sent, and grouped by number of images")
        seconds = in_turn(
            {
                "all slots": lambda: client.dispatcher.run(Job.of(ITEMSAGE, "1", number), _all_slots(served.catalogue)),
                "grouped": lambda: client.embed(*served.catalogue, version="1"),
            },
            runs=7,
            clock=served.cpu_clock,
        )
    rate = {name: [number / s for s in taken] for name, taken in seconds.items()}
    return compared("bucketing_speedup", "products/s", rate["grouped"], "all slots", rate["all slots"], at_least=1.8)


def _all_slots(catalogue: Catalogue) -> Iterator[Chunk]:
    """Yield requests like the client's, but in the catalogue's order and with all slots."""
    for start in range(0, len(catalogue.images), BATCH):
        rows = np.arange(start, min(start + BATCH, len(catalogue.images)))
        counts = np.array([len(catalogue.images[row]) for row in rows], np.int32)
        stacked = np.zeros((len(rows), SLOTS, 256), np.float16)
        for place, row in enumerate(rows):
            stacked[place, : counts[place]] = catalogue.images[row]
        lengths = catalogue.field_lengths[rows]
        ids = catalogue.token_ids[rows, : lengths.sum(1).max()]
        yield Chunk(
            rows,
            {"images": stacked, "image_counts": counts[:, None], "token_ids": ids, "field_lengths": lengths},
        )

"""A catalogue in which only the text shows which products belong together; the images are noise."""

from __future__ import annotations

import numpy as np

from inference.inputs import VECTOR_DIM, ProductInput
from inference.training.engagements import Engagement

COLOURS = ("crimson", "azure", "olive", "amber")
KINDS = ("lamp", "boots", "kettle", "tent", "drill")


def unit(rng: np.random.Generator, rows: int) -> np.ndarray:
    vectors = rng.normal(size=(rows, VECTOR_DIM)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def catalogue(per_kind: int = 12, seed: int = 0) -> list[ProductInput]:
    """Products of five kinds, which only a word of the description distinguishes."""
    rng = np.random.default_rng(seed)
    return [
        ProductInput(
            f"{kind}-{i}",
            {"title": f"item {COLOURS[i % 4]}", "description": f"a {kind} for every day", "brand": "acme"},
            unit(rng, 1 + i % 3),
        )
        for kind in KINDS
        for i in range(per_kind)
    ]


def engagements(per_kind: int = 12) -> list[Engagement]:
    """Viewers of a product click on others of its kind; a search names a kind."""
    clicks = [
        Engagement("image", f"{kind}-{i}", f"{kind}-{(i + step) % per_kind}", action)
        for kind in KINDS
        for i in range(per_kind)
        for step, action in ((1, "click"), (2, "click"), (3, "save"), (5, "checkout"))
    ]
    searches = [
        Engagement("search", f"{kind} please", f"{kind}-{i}", "click", count=1 + i % 3)
        for kind in KINDS
        for i in range(per_kind)
    ]
    return clicks + searches

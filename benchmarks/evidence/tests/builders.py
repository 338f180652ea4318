"""A tiny catalogue and made-up results for the tests of the evidence."""

from __future__ import annotations

import numpy as np

from benchmarks.evidence.catalogue import Catalogue
from benchmarks.evidence.results import Trained
from inference.inputs import ProductInput
from inference.training.engagements import TASKS
from inference.training.evaluation import Evaluation
from sagelift.demo.shoppers import ShopProduct


def catalogue() -> Catalogue:
    """Return a catalogue of 60 products with random vectors."""
    rng = np.random.default_rng(0)
    kinds = ("lamp", "tent", "mug", "boot")
    texts = [{"title": f"{kinds[i % 4]} number {i}", "product_type": kinds[i % 4]} for i in range(60)]
    vectors = rng.normal(size=(60, 1, 256)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    return Catalogue(
        "tiny",
        [ProductInput(f"p{i}", text, vectors[i]) for i, text in enumerate(texts)],
        [ShopProduct(f"p{i}", text, 500 + 40 * i, "EUR") for i, text in enumerate(texts)],
        rng.normal(size=(60, 48)),
    )


def result(variant: str, seed: int, recall: float) -> Trained:
    """Return a result with the same recall on all tasks."""
    of_tasks = Evaluation(dict.fromkeys(TASKS, recall), dict.fromkeys(TASKS, 100), recall, 0.5)
    return Trained(
        catalogue="shop", digest=f"{variant}{seed}", variant=variant, seed=seed, products=90, pairs=800, queries=70,
        seconds=1.0, known_products=of_tasks, new_products=of_tasks,
    )  # fmt: skip

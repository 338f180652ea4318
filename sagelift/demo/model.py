"""The demo's model: train ItemSage on the events, release it and embed the catalogue."""

from __future__ import annotations

from typing import Any

from sagelift.demo.config import DemoConfig
from sagelift.progress import Stage
from sagelift.services import Services

_SEARCH_STEPS = 150


def train(services: Services, config: DemoConfig, stage: Stage) -> dict[str, Any]:
    """Train on all events; return the run's folder, sizes and Recall@10 of ItemSage and of *Sum*."""
    from inference.training.config import TrainConfig
    from sagelift.training import train_run

    steps = config.training_steps
    options = TrainConfig(steps=steps, search_steps=min(_SEARCH_STEPS, steps), seed=config.seed)
    run, result = train_run(services, options, lambda name, done, total: stage.update(done, total, name))
    return {
        "run": str(run),
        "parameters": result.parameters,
        "training_pairs": result.training_pairs,
        "recall_at_10": round(result.itemsage.mean_recall, 4),
        "recall_at_10_sum": round(result.sum.mean_recall, 4),
    }


def release(services: Services, products: int, stage: Stage) -> dict[str, Any]:
    """Release the trained run and embed all products.

    Args:
        services: Services of the demo.
        products: Number of products, for the progress.
        stage: Shows the progress.

    Returns:
        The version, the release's folder, and the smallest cosine between Triton's answers and those of the model.
    """
    from sagelift.releases import release_run
    from sagelift.runs import latest_run

    released = release_run(services, latest_run(services), lambda done: stage.update(done, products, "embedding"))
    path = services.settings.model_repository / "itemsage" / released.version
    return {"version": released.version, "release": str(path), "probe_cosine": round(released.probe_cosine, 6)}

"""Training on what the installation holds: the products of the feature store, the engagements of the event store."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from experiments.engagements import engagement_counts
from inference.dataset import Engagement
from inference.inputs import ProductInput
from inference.train import OnProgress, TrainConfig, TrainedModel, TrainResult, continue_run, prepare_run
from sagelift.services import Services
from streaming.embedding_topic import EmbeddingPublisher
from streaming.release import Released, make_live, release_model


def read_products(services: Services) -> list[ProductInput]:
    """All live products as the model takes them."""
    return [ProductInput(p.id, p.text, p.image_vectors) for part in services.features.scan_features() for p in part]


def read_engagements(services: Services) -> list[Engagement]:
    """The engagement log. On the user surface the query is the interest's product: an image query."""
    return [
        Engagement("search" if e.surface == "search" else "image", e.query, e.product_id, e.action, e.count)
        for e in engagement_counts(services.experiments.engine)
    ]


def train_run(services: Services, config: TrainConfig, on_progress: OnProgress) -> tuple[Path, TrainResult]:
    """Train on the installation's data; the run folder is in `<state>/runs`."""
    folder = services.settings.state / "runs" / datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    prepare_run(folder, read_products(services), read_engagements(services), config)
    return folder, continue_run(folder, on_progress).result


def release_run(
    services: Services,
    run: Path,
    on_progress: Callable[[int], None] = lambda done: None,
    on_export: Callable[[str], None] = lambda version: None,
) -> Released:
    """Release a run folder: see `streaming.release`."""
    services.prepare_visual_encoder()
    trained = TrainedModel.load(run)
    return release_model(
        services.settings.model_repository,
        trained.model,
        trained.tokenizer,
        client=services.triton,
        store=services.features,
        publish=EmbeddingPublisher(services.producer()),
        extra_files={name: run / name for name in ("search.safetensors", "search.json")},
        metadata={
            "run": run.name,
            "mean_recall_at_10": trained.result.itemsage.mean_recall,
            "mean_recall_at_10_sum": trained.result.sum.mean_recall,
        },
        on_export=on_export,
        on_progress=on_progress,
    )


def make_release_live(
    services: Services, version: str, on_progress: Callable[[int], None] = lambda done: None
) -> Released:
    """Put an exported release into service, whether older or broken off: see `streaming.release`."""
    services.prepare_visual_encoder()
    return make_live(
        services.settings.model_repository,
        version,
        client=services.triton,
        store=services.features,
        publish=EmbeddingPublisher(services.producer()),
        on_progress=on_progress,
    )


def latest_run(services: Services) -> Path:
    """The newest run folder.

    Raises:
        ArtifactError: there is none.
    """
    from inference.errors import ArtifactError

    folder = services.settings.state / "runs"
    runs = sorted(p for p in folder.glob("*Z") if p.is_dir())
    if not runs:
        raise ArtifactError(f"there is no training run in {folder}; train one with `sagelift model train`")
    return runs[-1]

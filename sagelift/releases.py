"""Releases of the installation: from a training run to a live model and an embedded catalogue."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from inference.releases.export import export_release
from inference.releases.repository import Release
from inference.training.result import TrainedModel
from sagelift.runs import data_as_of
from sagelift.services import Services
from streaming.release.catalogue_shards import EmbeddingWorkers
from streaming.release.check import ReleaseCheck
from streaming.release.release import Released, ReleaseTarget, make_live, release_model


def export_run(repository: Path, run: Path) -> Release:
    """Write a run as the next release of a model repository, without making it live.

    Args:
        repository: The model repository; created if missing.
        run: Folder of the run.

    Raises:
        ArtifactError: The run cannot be read or released, or the repository cannot be written.
    """
    trained = TrainedModel.load(run)
    return export_release(repository, trained.model, trained.tokenizer, **_extras(run, trained))


def release_run(
    services: Services,
    run: Path,
    on_progress: Callable[[int], None] = lambda done: None,
    on_export: Callable[[str], None] = lambda version: None,
    workers: EmbeddingWorkers | None = None,
) -> Released:
    """Export a run, embed the catalogue with it, and make it live unless it is much worse than the live release.

    `streaming.release.release` describes the steps and the errors.

    Args:
        services: Parts of the installation.
        run: Folder of the run.
        on_progress: Called with the number of embedded products.
        on_export: Called with the version once the release is exported.
        workers: What embeds the catalogue; None for this process.
    """
    services.prepare_visual_encoder()
    trained = TrainedModel.load(run)
    return release_model(
        _target(services, workers),
        trained.model,
        trained.tokenizer,
        check=_check(services),
        on_export=on_export,
        on_progress=on_progress,
        **_extras(run, trained),
    )


def make_release_live(
    services: Services,
    version: str,
    on_progress: Callable[[int], None] = lambda done: None,
    *,
    checked: bool = False,
    workers: EmbeddingWorkers | None = None,
) -> Released:
    """Make an exported release live: an older one, or one whose release was interrupted.

    `streaming.release.release` describes the steps and the errors.

    Args:
        services: Parts of the installation.
        version: Version of the release.
        on_progress: Called with the number of embedded products.
        checked: Whether the release must not be much worse than the live one, as in `release_run`.
        workers: What embeds the catalogue; None for this process.
    """
    services.prepare_visual_encoder()
    check = _check(services) if checked else None
    return make_live(_target(services, workers), version, check=check, on_progress=on_progress)


def _extras(run: Path, trained: TrainedModel) -> dict[str, Any]:
    """What a release holds beside the model: the search encoder, and where it comes from."""
    return {
        "extra_files": {name: run / name for name in ("search.safetensors", "search.json")},
        "metadata": {
            "run": run.name,
            "data_as_of": data_as_of(run),
            "mean_recall_at_10": trained.result.itemsage.mean_recall,
            "mean_recall_at_10_sum": trained.result.sum.mean_recall,
        },
    }


def _check(services: Services) -> ReleaseCheck:
    return ReleaseCheck(services.settings.model_repository, services.features)


def _target(services: Services, workers: EmbeddingWorkers | None) -> ReleaseTarget:
    publish, publish_offers = services.publishers()
    return ReleaseTarget(
        services.settings.model_repository, services.triton, services.features, publish, publish_offers, workers
    )

"""Training on what the installation holds: the products of the feature store, the engagements of the event store."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from experiments.engagements import engagement_counts
from inference.errors import ArtifactError, InputError
from inference.inputs import TEXT_FIELDS, ProductInput
from inference.releases.export import export_release
from inference.releases.repository import Release
from inference.training.config import TrainConfig
from inference.training.engagements import Engagement
from inference.training.progress import OnProgress
from inference.training.result import TrainedModel, TrainResult
from inference.training.run import continue_run, prepare_run, unfinished_runs, work_folder
from sagelift.services import Services
from streaming.release.check import ReleaseCheck
from streaming.release.reembed import Elsewhere
from streaming.release.release import Released, make_live, release_model

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def read_products(services: Services, as_of: datetime) -> list[ProductInput]:
    """The products that were live at a moment, as known then, in the order of their ids.

    From the history, whose rows never change: the same moment gives the same products, however often it is asked.

    Raises:
        HistoryError: a part of the history cannot be read.
    """
    from feature_repo.definitions import IMAGES_VIEW, JOIN_KEY, TEXT_VIEW
    from feature_repo.history.as_of import matrices

    store = services.features
    texts: dict[str, dict[str, str]] = {}
    for table in store.rows_as_of(TEXT_VIEW, as_of, [JOIN_KEY, *TEXT_FIELDS]):
        columns = (table[name].fill_null("").to_pylist() for name in TEXT_FIELDS)
        for product_id, *values in zip(table[JOIN_KEY].to_pylist(), *columns, strict=True):
            texts[product_id] = dict(zip(TEXT_FIELDS, values, strict=True))
    found = []
    for table in store.rows_as_of(IMAGES_VIEW, as_of, [JOIN_KEY, "vectors"]):
        for product_id, images in zip(table[JOIN_KEY].to_pylist(), matrices(table["vectors"]), strict=True):
            if product_id in texts:  # else a write that was cut short: it comes again
                found.append(ProductInput(product_id, texts[product_id], images))
    return sorted(found, key=lambda product: product.id)


def read_engagements(services: Services, as_of: datetime) -> list[Engagement]:
    """The engagement log as known at a moment.

    On the user surface the query is the interest's product: an image query.
    """
    until_us = (as_of - _EPOCH) // timedelta(microseconds=1)
    return [
        Engagement("search" if e.surface == "search" else "image", e.query, e.product_id, e.action, e.count)
        for e in engagement_counts(services.experiments.engine, until_us)
    ]


def prepare_training(services: Services, config: TrainConfig, as_of: datetime | None = None) -> Path:
    """Write the installation's training set for a new run; `inference.training.run.continue_run` trains it.

    as_of: what was known at that moment, with a time zone; None: now. The run keeps it in `data/about.json`.

    Raises:
        InputError: nothing to train on, a moment without a zone or still to come.
        HistoryError: a part of the history cannot be read.
        ArtifactError: the disk refuses.
    """
    now = datetime.now(UTC)
    if as_of is not None and as_of.utcoffset() is None:
        raise InputError(f"the moment {as_of.isoformat()} has no time zone: add one, such as Z for UTC")
    at = (as_of or now).astimezone(UTC)
    if at > now:
        raise InputError(f"the moment {at.isoformat()} is still to come: what will be known then cannot be trained on")
    products = read_products(services, at)
    if not products and as_of is not None:
        raise InputError(f"no product was known at {at.isoformat()}: choose a later moment")
    run = runs_folder(services) / now.strftime("%Y%m%dT%H%M%S.%fZ")
    about = {"as_of": at.isoformat(), "products": len(products)}
    prepare_run(run, products, read_engagements(services, at), config, about)
    return run


def data_as_of(run: Path) -> str | None:
    """The moment of a run's training set, in ISO 8601; None for a run that was not made from an installation's data."""
    try:
        about = json.loads((run / "data" / "about.json").read_bytes())
        return str(about["as_of"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def train_run(services: Services, config: TrainConfig, on_progress: OnProgress) -> tuple[Path, TrainResult]:
    """Train on the installation's data; the run folder is in `<state>/runs`."""
    run = prepare_training(services, config)
    return run, continue_run(run, on_progress).result


def export_run(repo: Path, run: Path) -> Release:
    """Write a run as the next release of a model repository; see `inference.releases.export.export_release`."""
    trained, rest = _release_of(run)
    return export_release(repo, trained.model, trained.tokenizer, **rest)


def release_run(
    services: Services,
    run: Path,
    on_progress: Callable[[int], None] = lambda done: None,
    on_export: Callable[[str], None] = lambda version: None,
    elsewhere: Elsewhere | None = None,
) -> Released:
    """Release a run folder: see `streaming.release.release`."""
    services.prepare_visual_encoder()
    trained, rest = _release_of(run)
    publish, publish_offers = services.publishers()
    return release_model(
        services.settings.model_repository,
        trained.model,
        trained.tokenizer,
        client=services.triton,
        store=services.features,
        publish=publish,
        publish_offers=publish_offers,
        check=ReleaseCheck(services.settings.model_repository, services.features),
        elsewhere=elsewhere,
        on_export=on_export,
        on_progress=on_progress,
        **rest,
    )


def _release_of(run: Path) -> tuple[TrainedModel, dict[str, Any]]:
    """A run's model, and what a release holds beside it: the search encoder, and where it comes from."""
    trained = TrainedModel.load(run)
    return trained, {
        "extra_files": {name: run / name for name in ("search.safetensors", "search.json")},
        "metadata": {
            "run": run.name,
            "data_as_of": data_as_of(run),
            "mean_recall_at_10": trained.result.itemsage.mean_recall,
            "mean_recall_at_10_sum": trained.result.sum.mean_recall,
        },
    }


def make_release_live(
    services: Services,
    version: str,
    on_progress: Callable[[int], None] = lambda done: None,
    *,
    checked: bool = False,
    elsewhere: Elsewhere | None = None,
) -> Released:
    """Put an exported release into service, whether older or broken off: see `streaming.release.release`.

    `checked`: only if it is not too much worse than the live one, as `release_run` does.
    """
    services.prepare_visual_encoder()
    publish, publish_offers = services.publishers()
    return make_live(
        services.settings.model_repository,
        version,
        client=services.triton,
        store=services.features,
        publish=publish,
        publish_offers=publish_offers,
        check=ReleaseCheck(services.settings.model_repository, services.features) if checked else None,
        elsewhere=elsewhere,
        on_progress=on_progress,
    )


def runs_folder(services: Services) -> Path:
    """Where the installation's runs are."""
    return services.settings.state / "runs"


def latest_run(services: Services) -> Path:
    """The newest finished run.

    Raises:
        ArtifactError: there is none.
    """
    folder = runs_folder(services)
    runs = _finished(folder)
    if not runs:
        raise ArtifactError(f"there is no training run in {folder}; train one with `sagelift model train`")
    return runs[-1]


def find_run(services: Services, wanted: str | None) -> Path:
    """A finished run by its name or folder; None means the newest.

    Raises:
        ArtifactError: there is none; names those that there are.
    """
    if wanted is None:
        return latest_run(services)
    run = _named(services, wanted)
    if run.is_dir():
        return run
    if work_folder(run).is_dir():
        raise ArtifactError(
            f"run {run.name} is not finished; finish it with `sagelift model train --resume {run.name}`"
        )
    known = ", ".join(p.name for p in _finished(runs_folder(services))) or "none"
    raise ArtifactError(f"there is no training run {wanted!r}; {runs_folder(services)} has {known}")


def find_unfinished(services: Services, wanted: str) -> Path:
    """A run to go on with, by its name or folder, as `continue_run` takes it; a finished one is fine too.

    Raises:
        ArtifactError: there is none; names those that were broken off.
    """
    run = _named(services, wanted)
    if run.is_dir() or work_folder(run).is_dir():
        return run
    known = ", ".join(p.name for p in unfinished_runs(runs_folder(services))) or "none"
    raise ArtifactError(f"there is no training run {wanted!r} to go on with; {runs_folder(services)} has {known}")


def _named(services: Services, wanted: str) -> Path:
    """The folder that a finished run has or would have; it need not be there."""
    wanted = wanted.rstrip("/").removesuffix(".partial")
    here = Path(wanted).absolute()
    return here if here.is_dir() or work_folder(here).is_dir() else runs_folder(services) / wanted


def _finished(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("*Z") if p.is_dir())

"""Training on the installation's data: products of the feature store, engagements of the experiment database."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from experiments.engagements import engagement_counts
from feature_repo.times import to_microseconds
from inference.errors import InputError
from inference.inputs import TEXT_FIELDS, ProductInput
from inference.training.config import TrainConfig
from inference.training.engagements import Engagement
from inference.training.progress import OnProgress
from inference.training.result import TrainResult
from inference.training.run import continue_run, prepare_run
from sagelift.runs import runs_folder
from sagelift.services import Services


def read_products(services: Services, as_of: datetime) -> list[ProductInput]:
    """Read the products that were live at a time, as known at that time.

    They come from the history, whose rows never change: the same time always gives the same products.

    Args:
        services: Parts of the installation.
        as_of: The time, with a time zone.

    Returns:
        Products sorted by id.

    Raises:
        HistoryError: A part of the history cannot be read.
    """
    from feature_repo.definitions import IMAGES_VIEW, JOIN_KEY, TEXT_VIEW
    from feature_repo.history.as_of import matrices

    store = services.features
    texts: dict[str, dict[str, str]] = {}
    for table in store.rows_as_of(TEXT_VIEW, as_of, [JOIN_KEY, *TEXT_FIELDS]):
        columns = (table[name].fill_null("").to_pylist() for name in TEXT_FIELDS)
        for product_id, *values in zip(table[JOIN_KEY].to_pylist(), *columns, strict=True):
            texts[product_id] = dict(zip(TEXT_FIELDS, values, strict=True))
    products = []
    for table in store.rows_as_of(IMAGES_VIEW, as_of, [JOIN_KEY, "vectors"]):
        for product_id, images in zip(table[JOIN_KEY].to_pylist(), matrices(table["vectors"]), strict=True):
            if product_id in texts:  # otherwise an interrupted write, which will be repeated
                products.append(ProductInput(product_id, texts[product_id], images))
    return sorted(products, key=lambda product: product.id)


def read_engagements(services: Services, as_of: datetime) -> list[Engagement]:
    """Read the engagement log as it was known at a time.

    On the user surface, the query is a product that interested the user, hence an image query.

    Args:
        services: Parts of the installation.
        as_of: The time, with a time zone.
    """
    return [
        Engagement("search" if e.surface == "search" else "image", e.query, e.product_id, e.action, e.count)
        for e in engagement_counts(services.experiments.engine, to_microseconds(as_of))
    ]


def prepare_training(services: Services, config: TrainConfig, as_of: datetime | None = None) -> Path:
    """Write the training set of a new run. `inference.training.run.continue_run` trains it.

    Args:
        services: Parts of the installation.
        config: Configuration of the run.
        as_of: Train on the data that was known at this time, with a time zone; None for now. The run stores it in
            `data/about.json`.

    Returns:
        The folder that the finished run will have.

    Raises:
        InputError: There is nothing to train on, or the time has no time zone or is in the future.
        HistoryError: A part of the history cannot be read.
        ArtifactError: The run cannot be written.
    """
    now = datetime.now(UTC)
    if as_of is not None and as_of.utcoffset() is None:
        raise InputError(f"the time {as_of.isoformat()} has no time zone; add one, such as Z for UTC")
    time = (as_of or now).astimezone(UTC)
    if time > now:
        raise InputError(f"the time {time.isoformat()} is in the future; choose an earlier time")
    products = read_products(services, time)
    if not products and as_of is not None:
        raise InputError(f"no product was known at {time.isoformat()}; choose a later time")
    run = runs_folder(services) / now.strftime("%Y%m%dT%H%M%S.%fZ")
    about = {"as_of": time.isoformat(), "products": len(products)}
    prepare_run(run, products, read_engagements(services, time), config, about)
    return run


def train_run(services: Services, config: TrainConfig, on_progress: OnProgress) -> tuple[Path, TrainResult]:
    """Train on the installation's current data.

    Args:
        services: Parts of the installation.
        config: Configuration of the run.
        on_progress: Called with the progress of the training.

    Returns:
        The folder of the run, and its result.
    """
    run = prepare_training(services, config)
    return run, continue_run(run, on_progress).result

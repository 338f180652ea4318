"""The demo's catalogue: make or check the feed, and publish its products."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from sagelift.demo.config import DemoConfig
from sagelift.demo.results import DemoCatalogue
from sagelift.demo.waiting import wait_for_updates
from sagelift.errors import DemoError
from sagelift.progress import Stage
from sagelift.services import Services

if TYPE_CHECKING:
    from streaming.contracts import ProductUpdate
    from streaming.feeds import BadRow

_PUBLISH_TIMEOUT_S = 600


def prepare_feed(config: DemoConfig, folder: Path, stage: Stage) -> Path:
    """Return the path of the feed: that of the configuration, or a generated sample in `folder`.

    Raises:
        FeedError: The configured feed is missing or empty.
    """
    if config.catalog is not None:
        from streaming.feeds import read_feed

        read_feed(config.catalog, now=datetime.now(UTC))  # reports a missing or empty feed before anything starts
        return config.catalog
    from sagelift.demo.samples import write_sample

    return write_sample(
        folder,
        config.products,
        config.seed,
        progress=lambda done: stage.update(done, config.products, "drawing products"),
    )


def publish_feed(services: Services, feed: Path, stage: Stage) -> DemoCatalogue:
    """Publish the feed's products and wait until the catalogue consumer has stored them.

    Raises:
        DemoError: The feed has no usable product.
    """
    from streaming.feeds import read_feed
    from streaming.kafka.producers import CatalogPublisher

    refused: list[BadRow] = []
    with CatalogPublisher(services.kafka) as publisher:
        count = publisher.send_all(_usable(read_feed(feed, now=datetime.now(UTC)), refused, stage))
    if not count:
        raise DemoError(f"{feed} has no usable product; all {len(refused)} rows were refused (see above)")
    wait_for_updates(services, count, stage, _PUBLISH_TIMEOUT_S)
    products = sum(1 for _ in services.features.product_ids())
    return DemoCatalogue(str(feed), products, len(refused))


def _usable(rows: Iterable[ProductUpdate | BadRow], refused: list[BadRow], stage: Stage) -> Iterator[ProductUpdate]:
    from streaming.contracts import ProductUpdate

    for row in rows:
        if isinstance(row, ProductUpdate):
            yield row
        else:
            refused.append(row)
            stage.say(f"refused: {row}")

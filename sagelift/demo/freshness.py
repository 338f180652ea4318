"""Freshness: change products at a steady rate and time until their new embeddings are retrievable."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import numpy as np

from feature_repo.rows import ProductFeatures
from inference.retrieval import RetrievalIndex
from sagelift.demo.results import Percentiles
from sagelift.demo.waiting import catch_up, wait_for_updates
from sagelift.demo.world import World
from sagelift.progress import Stage
from streaming.contracts import Price, ProductUpdate
from streaming.kafka.producers import CatalogPublisher
from streaming.vectors.follower import IndexFollower


class Changes:
    """A mix of changes as in a real shop: titles, prices, new and deleted products, and a few bad messages.

    Args:
        products: Products to change.
        seed: Random seed.
    """

    def __init__(self, products: Sequence[ProductFeatures], seed: int) -> None:
        self._random = random.Random(seed)
        self._products = [p for p in products if p.amount_minor and p.currency] or list(products)

    def update(self, number: int, now: datetime) -> ProductUpdate:
        """Return change `number`: of ten, five titles, three prices, one new product, one deletion or bad message."""
        kind = number % 10
        product = self._random.choice(self._products)
        common: dict[str, Any] = {"version": int(now.timestamp() * 1e6) + number, "event_time": now}
        if kind < 5:
            title = f"{product.text['title']} ({number})"
            return ProductUpdate(id=product.id, op="patch", title=title, **common)
        if kind < 8 and product.currency:
            price = Price(Decimal(self._random.randint(500, 20_000)) / 100, product.currency)
            return ProductUpdate(id=product.id, op="patch", price=price, **common)
        if kind == 8:
            return ProductUpdate(id=f"demo-new-{number}", title=f"{product.text['title']} II", **common)
        if number % 20 == 9:
            return ProductUpdate(id=f"demo-new-{number - 1}", op="delete", **common)
        return ProductUpdate(id=product.id, op="patch", title="no\x00good", **common)


def measure_freshness(world: World, version: str, stage: Stage) -> tuple[RetrievalIndex, Percentiles]:
    """Publish changes and time each, from the broker's timestamp until the index has its embedding.

    Args:
        world: The world, with the products to change.
        version: Live model version.
        stage: Shows the progress.

    Returns:
        The index with the live embeddings, and the freshness.
    """
    services, config = world.services, world.config
    index = RetrievalIndex(version)
    milliseconds: list[float] = []
    measuring = threading.Event()

    def on_applied(_: str, age_ms: float) -> None:
        if measuring.is_set():
            milliseconds.append(age_ms)

    with IndexFollower(services.kafka, index, on_applied) as follower:
        catch_up(follower)
        measuring.set()
        with CatalogPublisher(services.kafka) as publisher:
            _publish(Changes(list(world.features.values()), config.seed), publisher, world, stage)
        wait_for_updates(services, config.changes, stage)
        catch_up(follower)
    p50, p99 = np.percentile(milliseconds, [50, 99])
    return index, Percentiles(round(float(p50), 1), round(float(p99), 1), len(milliseconds))


def _publish(changes: Changes, publisher: CatalogPublisher, world: World, stage: Stage) -> None:
    total, rate = world.config.changes, world.config.changes_per_s
    start = time.monotonic()
    for number in range(total):
        time.sleep(max(0.0, start + number / rate - time.monotonic()))
        publisher.send(changes.update(number, datetime.now(UTC)))
        stage.update(number + 1, total)
    publisher.flush()

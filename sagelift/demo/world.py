"""The demo's simulated world: the products with a price, their market, the shoppers and the calendar."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from sagelift.demo.config import DemoConfig
from sagelift.demo.shop import to_event
from sagelift.demo.shoppers import Market, Recommend, Shoppers, ShopProduct
from sagelift.errors import DemoError
from sagelift.progress import Stage
from sagelift.services import Services

if TYPE_CHECKING:
    from feature_repo.rows import ProductFeatures
    from inference.retrieval import RetrievalIndex

DAY = timedelta(days=1)
LEAST_PRODUCTS = 20


class World:
    """Shoppers that visit shops day by day, and the events that they leave.

    Attributes:
        services: Services of the demo.
        config: Size of the demo.
        features: Features of all products, by id.
        products: The products with a price, as shoppers see them.
        main_images: Vector of each product's first image, by id.
        start: Simulated start of the first day.
    """

    def __init__(self, services: Services, config: DemoConfig) -> None:
        self.services, self.config = services, config
        self.features = {p.id: p for part in services.features.scan_features() for p in part}
        self.products = priced_products(self.features)
        self.main_images = {
            p.id: self.features[p.id].image_vectors[0] for p in self.products if len(self.features[p.id].image_vectors)
        }
        # One day more than needed, so that the last refunds are not in the future.
        self.start = datetime.now(UTC) - (config.days_before + config.days_of_experiment + 1) * DAY
        self._shoppers = Shoppers(Market(self.products, config.seed), config.shoppers, config.seed + 1)
        self._day = 0

    def sum_index(self) -> RetrievalIndex:
        """Return the index of the *Sum* baseline: each product's image vectors summed, without training."""
        from inference.retrieval import RetrievalIndex
        from inference.training.packed import sum_images

        index = RetrievalIndex("sum")
        with_images = [self.features[p] for p in self.main_images]
        if with_images:
            for product, vector in zip(with_images, sum_images([p.image_vectors for p in with_images]), strict=True):
                index.upsert(product.id, 0, vector)
        return index

    def visit(
        self, recommend: Recommend, days: int, stage: Stage, on_day: Callable[[datetime], None] = lambda start: None
    ) -> None:
        """Let the shoppers visit a shop on the next days, and publish their events.

        Args:
            recommend: The shop.
            days: Number of days.
            stage: Shows the progress.
            on_day: Called with the start of each day before its visits.
        """
        from streaming.kafka.producers import EventPublisher

        with EventPublisher(self.services.kafka) as publisher:
            for number in range(days):
                start = self.start + self._day * DAY
                on_day(start)
                for action in self._shoppers.round(recommend, start, DAY):
                    publisher.send(to_event(action))
                self._day += 1
                stage.update(number + 1, days, "days")


def priced_products(features: Mapping[str, ProductFeatures]) -> list[ShopProduct]:
    """Return the products with a price.

    Raises:
        DemoError: There are fewer than 20, or they have several currencies.
    """
    products = [
        ShopProduct(p.id, p.text, p.amount_minor, p.currency)
        for p in features.values()
        if p.amount_minor and p.currency
    ]
    if len(products) < LEAST_PRODUCTS:
        raise DemoError(
            f"the catalogue has {len(products)} products with a price; the demo's shoppers need at least "
            f"{LEAST_PRODUCTS}"
        )
    if len(currencies := {p.currency for p in products}) > 1:
        raise DemoError(
            f"the catalogue has prices in {', '.join(sorted(currencies))}; the demo's report adds up one currency: "
            "publish a feed with prices in one"
        )
    return products

"""A catalogue pipeline on stand-ins, and what became of its batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

from streaming.catalogue.batch import BatchResult
from streaming.catalogue.pipeline import CatalogPipeline
from streaming.contracts import ProductUpdate
from streaming.dead_letters.writer import FailedRecord
from streaming.kafka.codec import JSON, Codec
from streaming.vectors.publisher import OutgoingVector, PublishOffers, PublishVectors
from tests.streaming.builders import NOW, Record, record
from tests.streaming.fakes import Crash, FakeEmbedder, FakeImages, FakeOffers, FakeStore, FakeTopic


class World:
    """A pipeline on stand-ins for everything around it."""

    def __init__(self, image_retry_after: timedelta = timedelta(0), *, codec: Codec = JSON) -> None:
        self.store, self.images = FakeStore(), FakeImages()
        self.topic, self.offers = FakeTopic(), FakeOffers()
        self.embedder: FakeEmbedder | None = FakeEmbedder()
        self.dead_letters: list[FailedRecord] = []
        self.now, self.codec = NOW, codec
        self.restart(image_retry_after=image_retry_after)

    def restart(
        self,
        publish: PublishVectors | None = None,
        publish_offers: PublishOffers | None = None,
        image_retry_after: timedelta = timedelta(minutes=5),
        *,
        dead_letters: Callable[[Sequence[FailedRecord]], None] | None = None,
    ) -> None:
        """A new process: it remembers nothing."""
        self.pipeline = CatalogPipeline(
            self.store,
            self.images,
            lambda: self.embedder,
            publish or self.topic,
            publish_offers or self.offers,
            dead_letters or self.dead_letters.extend,
            self.codec,
            lambda: self.now,
            image_retry_after=image_retry_after,
        )

    def process(self, *updates: ProductUpdate | Record) -> BatchResult:
        return self.pipeline.process(
            [u if isinstance(u, Record) else record(u, offset) for offset, u in enumerate(updates)]
        )

    def state(self) -> dict[str, Any]:
        """All that counts: features, embeddings, and what a reader of the compacted topic would have."""
        products = self.store.read_features(list(self.store.views["text"]))
        return {
            "features": {
                i: (p.version, p.deleted, p.text, p.image_urls, p.image_hashes, p.amount_minor, p.currency)
                for i, p in products.items()
            },
            "embeddings": {
                i: (e.content_hash, e.vector.tobytes()) for i, e in self.store.embeddings["1"].items() if not e.deleted
            },
            "topic": self.topic.compacted(),
            "offers": self.offers.compacted(),
        }


def counts(outcome: BatchResult) -> dict[str, int]:
    return dict(+outcome.counts)


def stages(outcome: BatchResult) -> list[str]:
    return [letter.stage for letter in outcome.dead_letters]


def crashing_publisher(world: World, times: int = 1) -> Callable[[Sequence[OutgoingVector]], None]:
    """A publisher that crashes so many times before it publishes to the topic of this world."""
    crashes = [True] * times

    def publish(vectors: Sequence[OutgoingVector]) -> None:
        if crashes:
            crashes.pop()
            raise Crash
        world.topic(vectors)

    return publish

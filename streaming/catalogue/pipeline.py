"""The catalogue consumer's pipeline, from a batch of records to its commit, in three stages.

    features     decode -> group by product -> version guard and merge -> images -> feature store
    embeddings   inputs of the model changed? -> model -> feature store
    publishing   product.offers, product.embeddings, dead letters

While a stage works on one batch, the next stage works on the previous batch (`streaming.consumer.loop`). Each stage
sees the batches in order, and versions guard every write, so the result equals processing one batch at a time.

A product is embedded again only if the model's inputs changed: if the hash of its text and images differs from that of
its stored embedding. Before the first release only features are kept; the release embeds the whole catalogue.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from feature_repo.rows import ProductFeatures
from inference.errors import ArtifactError
from streaming.catalogue.batch import (
    BatchResult,
    EmbeddedBatch,
    FeatureBatch,
    first_arrival,
    oldest_version,
)
from streaming.catalogue.decoding import decode_updates
from streaming.catalogue.embed import Embedder, embed
from streaming.catalogue.features import FeatureWriter
from streaming.catalogue.images.product_images import ImageVectors, ProductImages
from streaming.catalogue.settled import SettledProduct, SettledProducts
from streaming.consumer.observer import NO_OBSERVER, Observer
from streaming.consumer.poison import PoisonGuard
from streaming.dead_letters.writer import FailedRecord
from streaming.errors import ContractError
from streaming.feature_store import CatalogStore
from streaming.kafka.codec import Codec
from streaming.tracing import traceparent
from streaming.vectors.embeddings import publish_vectors
from streaming.vectors.offers import publish_offers
from streaming.vectors.publisher import OutgoingVector, PublishOffers, PublishVectors


class CatalogPipeline:
    """Handles batches of records of `catalog.updates`. Every write is idempotent by product and version.

    If a later step refuses something that the contract allows, the batch is halved until the update at fault is alone;
    only that update becomes a dead letter.

    Args:
        store: The feature store.
        images: Fetches and encodes images.
        embedder: Called for each batch, so that a release takes effect at once; returns None before the first release.
        publish: Publishes vectors.
        publish_offers: Publishes offers.
        dead_letters: Sends dead letters, and returns when the broker has acknowledged them.
        codec: Decodes the records (`Connection.codec`).
        clock: The present time, aware.
        image_retry_after: Shortest time before a failed image link is tried again; see `ProductImages`.

    Attributes:
        poison: Stops the consumer when too many messages are refused; None for never.
        observer: Receives the result of each batch.
    """

    def __init__(
        self,
        store: CatalogStore,
        images: ImageVectors,
        embedder: Callable[[], Embedder | None],
        publish: PublishVectors,
        publish_offers: PublishOffers,
        dead_letters: Callable[[Sequence[FailedRecord]], None],
        codec: Codec,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        *,
        image_retry_after: timedelta = timedelta(minutes=5),
    ) -> None:
        self._store, self._images, self._embedder = store, images, embedder
        self._publish, self._publish_offers, self._dead_letters = publish, publish_offers, dead_letters
        self._codec, self._clock = codec, clock
        self._settled = SettledProducts()
        self._writer = FeatureWriter(store, ProductImages(images, clock, image_retry_after), self._settled)
        self.poison: PoisonGuard | None = None
        self.observer: Observer = NO_OBSERVER

    def process(self, records: Sequence[Any]) -> BatchResult:
        """Run all stages. When this returns, everything about these records is written; see `publishing`."""
        return self.publishing(self.embeddings(self.features(records)))

    def features(self, records: Sequence[Any]) -> FeatureBatch:
        """Run the first stage; features are written when this returns.

        Raises:
            PoisonRateError: Too many of the recent messages cannot be used.
            RegistryError: A schema registry is in use and does not answer; nothing of the batch is written.
        """
        received, decoded = decode_updates(records, self._codec, self._clock())
        if self.poison and records:
            letters = decoded.dead_letters
            batch = records[0].partition, records[0].offset
            self.poison.count(batch, len(records), len(letters), letters[0].message if letters else "")
        settled_model = self._settled.model_version
        changes = self._writer.write(received)
        return FeatureBatch(received, changes, BatchResult.total([decoded, changes.result]), settled_model)

    def embeddings(self, batch: FeatureBatch) -> EmbeddedBatch:
        """Run the second stage; embeddings are written when this returns."""
        result = BatchResult.total([batch.result])
        # Get the embedder after writing the features: a release that goes live later then reads them.
        embedder = self._embedder()
        products: Sequence[ProductFeatures] = batch.changes.products
        vectors: list[OutgoingVector] = []
        rejected: dict[str, str] = {}
        if embedder is None:
            self._check_before_first_release()
            result.counts["no_model"] += len(products) + len(batch.changes.offers_only)
        else:
            if batch.changes.offers_only and embedder.model_version != batch.settled_model:
                unsettled = self._store.read_features(batch.changes.offers_only).values()
                products = [*products, *(product for product in unsettled if not product.deleted)]
            vectors, rejected = embed(
                products,
                self._store,
                embedder,
                source_time=lambda product_id: first_arrival(batch.received[product_id]),
                # A crash may have stopped the consumer after it wrote an embedding and before it published it. An
                # embedding older than all updates here belongs to a committed batch, so it was published.
                republish=lambda product_id, state: state.version >= oldest_version(batch.received[product_id]),
                counts=result.counts,
            )
            for product_id, reason in rejected.items():
                result.refuse(batch.cause_of(product_id), "embed", ContractError("", reason))
        if batch.changes.deletions:  # publish them under every model version: a reader may follow any of them
            models = self._store.model_versions()
            vectors += [
                OutgoingVector(model, d.id, d.version, None) for d in batch.changes.deletions for model in models
            ]
        model_version = None if embedder is None else embedder.model_version
        return EmbeddedBatch(batch, result, products, model_version, vectors, rejected)

    def publishing(self, batch: EmbeddedBatch) -> BatchResult:
        """Run the last stage. When this returns, both topics are up to date and the broker has the dead letters.

        Raises:
            BrokerError: The broker did not accept all records. The stage can run again: it does no harm to send records
                again that the broker already has.
        """
        offers = batch.features.changes.offers
        traces = self._traces(batch.features, (offer.product_id for offer in offers))
        publish_offers(
            offers,
            self._store,
            partial(self._publish_offers, traces=traces) if traces else self._publish_offers,
            lambda: self._clock().timestamp(),
        )
        traces = self._traces(batch.features, (vector.product_id for vector in batch.vectors))
        publish_vectors(batch.vectors, self._store, partial(self._publish, traces=traces) if traces else self._publish)
        self._remember_settled(batch)
        self._dead_letters(batch.result.dead_letters)
        self._report(batch)
        return batch.result

    @staticmethod
    def _traces(batch: FeatureBatch, product_ids: Iterable[str]) -> dict[str, bytes]:
        return {i: trace for i in product_ids if (trace := traceparent(batch.cause_of(i)))}

    def _remember_settled(self, batch: EmbeddedBatch) -> None:
        if batch.model_version is None:
            return
        settled = {
            product.id: SettledProduct(product.version, product.text["product_type"])
            for product in batch.products
            if product.id not in batch.rejected and self._has_all_images(product)
        }
        self._settled.add(batch.model_version, self._images.visual_version, settled)

    def _has_all_images(self, product: ProductFeatures) -> bool:
        if "" in product.image_hashes:
            return False
        return not product.image_urls or product.visual_version == self._images.visual_version

    def _report(self, batch: EmbeddedBatch) -> None:
        now = self._clock().timestamp() * 1000
        self.observer.fresh([now - v.message.source_time for v in batch.vectors if v.message is not None])
        self.observer.counted(batch.result.counts)
        if batch.result.unknown_fields:
            self.observer.unknown_fields(batch.result.unknown_fields)
        if batch.result.dead_letters:
            self.observer.dead_letters(Counter(letter.stage for letter in batch.result.dead_letters))

    def _check_before_first_release(self) -> None:
        """Refuse to run without a model after a release: the old vectors would stay forever."""
        if versions := self._store.model_versions():
            raise ArtifactError(
                f"no release is live, but the feature store has embeddings of model versions {', '.join(versions)}: "
                "mount the model repository, or run `sagelift model live VERSION`. If the first release is still "
                "running, wait"
            )

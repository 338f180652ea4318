"""What happens to catalogue updates between their decoding and their commit.

    decode -> coalesce per product -> version guard and merge -> images -> features -> embedding -> product.embeddings

Only the model's inputs decide about inference: a product whose text and images hash to what its stored embedding was
made of is not embedded again. With no model released yet, features are kept and embeddings follow with the release.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec
import numpy as np

from feature_repo.rows import Deletion, ProductEmbedding, ProductFeatures
from inference.client import Embedded
from inference.inputs import Float32Array, ProductInput, content_hash
from streaming.contracts import ProductUpdate, ProductVector, decode_update
from streaming.dead_letters import DeadLetter
from streaming.errors import ContractError, ImageError
from streaming.merging import Product, changed_views, in_order, merge


class FeatureStore(Protocol):
    """The part of `feature_repo.store.ProductFeatureStore` that the pipeline needs."""

    def read_features(self, ids: Iterable[str]) -> dict[str, ProductFeatures]: ...
    def write_features(self, products: Sequence[ProductFeatures], views: Sequence[str]) -> set[str]: ...
    def delete(self, deletions: Sequence[Deletion]) -> set[str]: ...
    def model_versions(self) -> list[str]: ...
    def read_embeddings(self, model_version: str, ids: Iterable[str]) -> dict[str, ProductEmbedding]: ...
    def write_embeddings(self, model_version: str, embeddings: Sequence[ProductEmbedding]) -> set[str]: ...


class Embedder(Protocol):
    """The live model, as `inference.client.ItemEmbedder` serves it."""

    @property
    def model_version(self) -> str: ...
    def embed_products(self, products: Sequence[ProductInput]) -> Embedded: ...


class ImageVectors(Protocol):
    """Links -> (content hash, vector) or the error; see `streaming.image_vectors`."""

    visual_version: str

    def vectors(self, links: Sequence[str]) -> Mapping[str, tuple[str, Float32Array] | ImageError]: ...


class Publish(Protocol):
    """Puts vectors (or deletions, None) on `product.embeddings`; returns when the broker has them all."""

    def __call__(self, vectors: Sequence[tuple[str, str, int, ProductVector | None]]) -> None: ...


class Received(msgspec.Struct, frozen=True):
    """A decoded update and the record that it came in."""

    record: Any
    update: ProductUpdate


class Outcome(msgspec.Struct):
    """What became of a batch: dead letters still to be sent, and counts by what was done."""

    dead_letters: list[DeadLetter] = []
    counts: Counter[str] = msgspec.field(default_factory=Counter)

    def refuse(self, record: Any, stage: str, error: Exception) -> None:
        self.dead_letters.append(DeadLetter(record, stage, type(error).__name__, str(error)))
        self.counts[f"refused_{stage}"] += 1


class CatalogPipeline:
    """Handles batches of records of `catalog.updates`. Every write is idempotent by (product, version).

    Args:
        embedder: asked for each batch, so that a release takes effect at once; None before the first release.
        clock: the present, aware.
    """

    def __init__(
        self,
        store: FeatureStore,
        images: ImageVectors,
        embedder: Callable[[], Embedder | None],
        publish: Publish,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store, self._images, self._embedder, self._publish, self._clock = store, images, embedder, publish, clock

    def process(self, records: Sequence[Any]) -> Outcome:
        """Everything about these records is written when this returns; dead letters are the caller's to send."""
        outcome = Outcome()
        by_product: dict[str, list[Received]] = defaultdict(list)
        for record in records:
            try:
                update = decode_update(record.value, now=self._clock())
                by_product[update.id].append(Received(record, update))
            except ContractError as error:
                outcome.refuse(record, "decode", error)
        stored = self._store.read_features(by_product)
        merged: dict[str, tuple[Product, Any]] = {}
        for product_id, received in by_product.items():
            if product := self._merge(stored.get(product_id), received, outcome):
                merged[product_id] = product, received[-1].record
        written = self._write_features(stored, merged, outcome)
        self._delete(written, merged, outcome)
        self._embed([p for p in written if not p.deleted], merged, outcome)
        return outcome

    def _merge(self, stored: ProductFeatures | None, received: Sequence[Received], outcome: Outcome) -> Product | None:
        """The product after its updates of this batch; None when none of them counts."""
        updates, stale = in_order([r.update for r in received], stored.version if stored else 0)
        outcome.counts["stale"] += stale
        current = Product.of(stored) if stored else None
        applied = False
        for update in updates:
            try:
                current = merge(current, update)
                applied = True
            except ContractError as error:
                record = next(r.record for r in received if r.update is update)
                outcome.refuse(record, "merge", error)
        return current if applied else None

    def _write_features(
        self, stored: Mapping[str, ProductFeatures], merged: Mapping[str, tuple[Product, Any]], outcome: Outcome
    ) -> list[ProductFeatures]:
        """Write what changed, view by view; returns the products as they now are, deleted ones too."""
        rows: dict[tuple[str, ...], list[ProductFeatures]] = defaultdict(list)
        alive = {i: product for i, (product, _) in merged.items() if not product.deleted}
        views = {i: changed_views(stored.get(i), product) for i, product in alive.items()}
        fetched = self._fetch_images(stored, [alive[i] for i, v in views.items() if "images" in v])
        for product_id, product in alive.items():
            row = self._features(product, stored.get(product_id), fetched, merged[product_id][1], outcome)
            # A version that changes nothing is still recorded: an older one must not pass later.
            rows[views[product_id] or ("offer",)].append(row)
            outcome.counts["features_" + ("_".join(views[product_id]) or "unchanged")] += 1
        stale: set[str] = set()
        for names, of_views in rows.items():
            stale |= self._store.write_features(of_views, names)
        gone = [
            ProductFeatures(id=p.id, version=p.version, event_time=p.event_time, deleted=True)
            for p, _ in merged.values()
            if p.deleted
        ]
        return [row for part in rows.values() for row in part if row.id not in stale] + gone

    def _fetch_images(
        self, stored: Mapping[str, ProductFeatures], products: Sequence[Product]
    ) -> Mapping[str, tuple[str, Float32Array] | ImageError]:
        """Vectors of the links that the stored products do not have yet."""
        known = {p.id: set(stored[p.id].image_urls) if p.id in stored else set() for p in products}
        wanted = dict.fromkeys(link for p in products for link in p.links if link not in known[p.id])
        return self._images.vectors(list(wanted)) if wanted else {}

    def _features(
        self,
        product: Product,
        before: ProductFeatures | None,
        fetched: Mapping[str, tuple[str, Float32Array] | ImageError],
        record: Any,
        outcome: Outcome,
    ) -> ProductFeatures:
        """A product's feature row. An image that cannot be had is left out, and its update becomes a dead letter."""
        images: list[tuple[str, str, Float32Array]] = []
        kept = {}
        if before is not None and not before.deleted:
            kept = dict(
                zip(before.image_urls, zip(before.image_hashes, before.image_vectors, strict=True), strict=True)
            )
        for link in product.links:
            found = kept.get(link) or fetched.get(link)
            if isinstance(found, ImageError):
                outcome.refuse(record, "image", found)
            elif found is not None:
                images.append((link, *found))
        return ProductFeatures(
            id=product.id,
            version=product.version,
            event_time=product.event_time,
            text=product.text,
            image_urls=[link for link, _, _ in images],
            image_hashes=[digest for _, digest, _ in images],
            image_vectors=np.stack([v for _, _, v in images]) if images else np.zeros((0, 256), np.float32),
            visual_version=self._images.visual_version,
            amount_minor=product.amount_minor,
            currency=product.currency,
            availability=product.availability,
        )

    def _delete(
        self, written: Sequence[ProductFeatures], merged: Mapping[str, tuple[Product, Any]], outcome: Outcome
    ) -> None:
        gone = [Deletion(id=p.id, version=p.version, event_time=p.event_time) for p in written if p.deleted]
        if not gone:
            return
        stale = self._store.delete(gone)
        versions = self._store.model_versions()
        self._publish([(v, d.id, d.version, None) for d in gone if d.id not in stale for v in versions])
        outcome.counts["deleted"] += len(gone) - len(stale)

    def _embed(
        self, products: Sequence[ProductFeatures], merged: Mapping[str, tuple[Product, Any]], outcome: Outcome
    ) -> None:
        embedder = self._embedder()
        if embedder is None:
            outcome.counts["no_model"] += len(products)
            return
        rejected = embed_and_publish(
            products,
            self._store,
            embedder,
            self._publish,
            source_time=lambda product_id: merged[product_id][1].timestamp,
            counts=outcome.counts,
        )
        for product_id, reason in rejected.items():
            outcome.refuse(merged[product_id][1], "embed", ContractError("", reason))


def embed_and_publish(
    products: Sequence[ProductFeatures],
    store: FeatureStore,
    embedder: Embedder,
    publish: Publish,
    *,
    source_time: Callable[[str], int],
    counts: Counter[str],
    republish: bool = True,
) -> dict[str, str]:
    """Embed those products whose inputs changed since their stored embedding; returns who was rejected, and why.

    The consumer and the re-embedding of a whole catalogue share it. With `republish`, a stored embedding of the very
    version that is being handled goes on the topic again: a crash may have come between its writing and its sending.
    """
    version = embedder.model_version
    stored = store.read_embeddings(version, [p.id for p in products])
    hashes = {p.id: content_hash(p.text, p.image_hashes, p.visual_version) for p in products}
    fresh, again = [], []
    for product in products:
        known = stored.get(product.id)
        if known is None or known.deleted or known.content_hash != hashes[product.id]:
            fresh.append(product)
        elif republish and known.version == product.version:
            again.append(known)
        else:
            counts["embedding_unchanged"] += 1
    rows, rejected = again, {}
    if fresh:
        answer = embedder.embed_products([ProductInput(p.id, p.text, p.image_vectors) for p in fresh])
        rejected = {fresh[i].id: reason for i, reason in answer.rejected.items()}
        made = [
            ProductEmbedding(
                id=p.id,
                version=p.version,
                event_time=p.event_time,
                model_version=version,
                content_hash=hashes[p.id],
                vector=vector,
            )
            for i, (p, vector) in enumerate(zip(fresh, answer.vectors, strict=True))
            if i not in answer.rejected
        ]
        stale = store.write_embeddings(version, made)
        rows = again + [m for m in made if m.id not in stale]
        counts["embedded"] += len(made)
    publish([(version, r.id, r.version, _message(r, source_time(r.id))) for r in rows])
    return rejected


def _message(row: ProductEmbedding, source_time: int) -> ProductVector:
    return ProductVector(
        id=row.id,
        version=row.version,
        model_version=row.model_version,
        content_hash=row.content_hash,
        vector=ProductVector.pack(row.vector),
        source_time=source_time,
    )

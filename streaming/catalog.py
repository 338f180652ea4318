"""What happens to catalogue updates between their decoding and their commit.

    decode -> coalesce per product -> version guard and merge -> images -> features -> embedding -> product.embeddings

Only the model's inputs decide about inference: a product whose text and images hash to what its stored embedding was
made of is not embedded again. With no model released yet, features are kept and embeddings follow with the release.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec
import numpy as np

from feature_repo.errors import InvalidFeatureError
from feature_repo.rows import Deletion, ProductEmbedding, ProductFeatures
from inference.client import Embedded
from inference.errors import InputError
from inference.inputs import Float32Array, ProductInput, content_hash
from streaming.contracts import ProductUpdate, ProductVector, decode_update, image_links
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
    """What became of a batch: dead letters still to be sent, counts by what was done, fields that were kept out."""

    dead_letters: list[DeadLetter] = []
    counts: Counter[str] = msgspec.field(default_factory=Counter)
    unknown_fields: Counter[str] = msgspec.field(default_factory=Counter)

    def refuse(self, record: Any, stage: str, error: Exception) -> None:
        self.dead_letters.append(DeadLetter(record, stage, type(error).__name__, str(error)))
        self.counts[f"refused_{stage}"] += 1

    def add(self, other: Outcome) -> None:
        self.dead_letters += other.dead_letters
        self.counts.update(other.counts)
        self.unknown_fields.update(other.unknown_fields)


class _Change(msgspec.Struct):
    """What a batch makes of one product, and whom to blame: the records of its last update and of its images."""

    product: Product
    record: Any
    images_record: Any


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
        """Everything about these records is written when this returns; dead letters are the caller's to send.

        What the contract let through and a later stage refuses is found by halving: it alone becomes a dead letter.
        """
        outcome = Outcome()
        try:
            self._process(records, outcome)
            return outcome
        except (InvalidFeatureError, InputError) as error:
            outcome = Outcome()
            if len(records) == 1:
                outcome.refuse(records[0], "store", error)
                return outcome
        middle = len(records) // 2
        for part in (records[:middle], records[middle:]):
            outcome.add(self.process(part))
        return outcome

    def _process(self, records: Sequence[Any], outcome: Outcome) -> None:
        received = self._decode(records, outcome)
        stored = self._store.read_features(received)
        changes: dict[str, _Change] = {}
        for product_id, updates in received.items():
            if change := self._merge(stored.get(product_id), updates, outcome):
                changes[product_id] = change
        alive = {i: change for i, change in changes.items() if not change.product.deleted}
        written = self._write_features(stored, alive, outcome)
        self._delete([c.product for c in changes.values() if c.product.deleted], outcome)
        # Also products of which this batch brings nothing new: their newer features may have been written just before a
        # crash, and this update may be the one that their embedding came from.
        untouched = [p for i, p in stored.items() if i not in changes and not p.deleted]
        blame = {i: changes[i].record if i in changes else updates[-1].record for i, updates in received.items()}
        versions = {i: {r.update.version for r in updates} for i, updates in received.items()}
        self._embed([*written, *untouched], versions, blame, outcome)

    def _decode(self, records: Sequence[Any], outcome: Outcome) -> dict[str, list[Received]]:
        by_product: dict[str, list[Received]] = defaultdict(list)
        now = self._clock()
        for record in records:
            try:
                update = decode_update(record.value, now=now, unknown=outcome.unknown_fields)
                if record.key != update.id.encode():
                    raise ContractError("id", "must be the record's key, which keeps one product's updates in order")
                by_product[update.id].append(Received(record, update))
            except ContractError as error:
                outcome.refuse(record, "decode", error)
        return by_product

    def _merge(self, stored: ProductFeatures | None, received: Sequence[Received], outcome: Outcome) -> _Change | None:
        """The product after its updates of this batch; None when none of them counts."""
        updates, stale = in_order([r.update for r in received], stored.version if stored else 0)
        outcome.counts["stale"] += stale
        record_of = {id(r.update): r.record for r in received}
        current = Product.of(stored) if stored else None
        last = images = None
        for update in updates:
            record = record_of[id(update)]
            try:
                current = merge(current, update)
            except ContractError as error:
                outcome.refuse(record, "merge", error)
                continue
            last = record
            images = record if images is None or image_links(update) is not None else images
        if current is None or last is None:
            return None
        return _Change(current, last, images)

    def _write_features(
        self, stored: Mapping[str, ProductFeatures], changes: Mapping[str, _Change], outcome: Outcome
    ) -> list[ProductFeatures]:
        """Write what changed, view by view; returns the products as they now are, without those found stale."""
        rows: dict[tuple[str, ...], list[ProductFeatures]] = defaultdict(list)
        visual_version = self._images.visual_version
        views = {i: changed_views(stored.get(i), c.product, visual_version) for i, c in changes.items()}
        kept = {i: _images_of(stored.get(i), visual_version) for i in changes}
        wanted = dict.fromkeys(
            link for i, c in changes.items() if "images" in views[i] for link in c.product.links if link not in kept[i]
        )
        fetched = self._images.vectors(list(wanted)) if wanted else {}
        for product_id, change in changes.items():
            # A version that changes nothing is still recorded: an older one must not pass later.
            names = views[product_id] or ("offer",)
            if "images" in names:
                rows[names].append(self._with_images(change, {**fetched, **kept[product_id]}, outcome))
            else:
                rows[names].append(_features(change.product, stored[product_id]))
            outcome.counts["features_" + ("_".join(views[product_id]) or "unchanged")] += 1
        stale: set[str] = set()
        for names, of_views in rows.items():
            stale |= self._store.write_features(of_views, names)
        outcome.counts["stale"] += len(stale)
        return [row for part in rows.values() for row in part if row.id not in stale]

    def _with_images(
        self, change: _Change, known: Mapping[str, tuple[str, Float32Array] | ImageError], outcome: Outcome
    ) -> ProductFeatures:
        """The product's row; images that cannot be had are left out, and the update that named them is refused once."""
        product, images, errors = change.product, [], []
        for link in product.links:
            found = known[link]
            if isinstance(found, ImageError):
                errors.append(str(found))
            else:
                images.append((link, *found))
        if errors:
            outcome.refuse(change.images_record, "image", ImageError("; ".join(errors)))
        row = _features(product, None)
        row.image_urls = [link for link, _, _ in images]
        row.image_hashes = [digest for _, digest, _ in images]
        row.image_vectors = np.stack([v for _, _, v in images]) if images else row.image_vectors
        row.visual_version = self._images.visual_version
        return row

    def _delete(self, products: Sequence[Product], outcome: Outcome) -> None:
        """Tombstones in the store, then on the topic, under every model version that a reader may follow."""
        if not products:
            return
        gone = [Deletion(id=p.id, version=p.version, event_time=p.event_time) for p in products]
        stale = self._store.delete(gone)
        versions = self._store.model_versions()
        self._publish([(v, d.id, d.version, None) for d in gone if d.id not in stale for v in versions])
        outcome.counts["stale"] += len(stale)
        outcome.counts["deleted"] += len(gone) - len(stale)

    def _embed(
        self,
        products: Sequence[ProductFeatures],
        versions: Mapping[str, Collection[int]],
        blame: Mapping[str, Any],
        outcome: Outcome,
    ) -> None:
        # Asked for only now: with features written before the question, a release that goes live after it finds them.
        embedder = self._embedder()
        if embedder is None:
            outcome.counts["no_model"] += len(products)
            return
        rejected = embed_and_publish(
            products,
            self._store,
            embedder,
            self._publish,
            source_time=lambda product_id: int(blame[product_id].timestamp),
            # A crash may have come between an embedding's writing and its publishing; then the update that caused it
            # is in this batch again.
            republish=lambda embedding: embedding.version in versions[embedding.id],
            counts=outcome.counts,
        )
        for product_id, reason in rejected.items():
            outcome.refuse(blame[product_id], "embed", ContractError("", reason))


def _images_of(stored: ProductFeatures | None, visual_version: str) -> dict[str, tuple[str, Float32Array]]:
    """The images that a product has already, as this visual encoder saw them."""
    if stored is None or stored.deleted or stored.visual_version != visual_version:
        return {}
    seen = zip(stored.image_hashes, stored.image_vectors, strict=True)
    return dict(zip(stored.image_urls, seen, strict=True))


def _features(product: Product, images_from: ProductFeatures | None) -> ProductFeatures:
    row = ProductFeatures(
        id=product.id,
        version=product.version,
        event_time=product.event_time,
        text=product.text,
        amount_minor=product.amount_minor,
        currency=product.currency,
        availability=product.availability,
    )
    if images_from is not None:
        row.image_urls, row.image_hashes = images_from.image_urls, images_from.image_hashes
        row.image_vectors, row.visual_version = images_from.image_vectors, images_from.visual_version
    return row


def embed_and_publish(
    products: Sequence[ProductFeatures],
    store: FeatureStore,
    embedder: Embedder,
    publish: Publish,
    *,
    source_time: Callable[[str], int],
    republish: Callable[[ProductEmbedding], bool],
    counts: Counter[str],
) -> dict[str, str]:
    """Embed those products whose inputs changed since their stored embedding; returns who was rejected, and why.

    The consumer and the re-embedding of a whole catalogue share it. `republish` tells whether a stored embedding that
    still holds goes on the topic again.
    """
    if not products:
        return {}
    version = embedder.model_version
    stored = store.read_embeddings(version, [p.id for p in products])
    hashes = {p.id: content_hash(p.text, p.image_hashes, p.visual_version) for p in products}
    fresh, rows = [], []
    for product in products:
        known = stored.get(product.id)
        if known is None or known.deleted or known.content_hash != hashes[product.id]:
            fresh.append(product)
            continue
        counts["embedding_unchanged"] += 1
        if republish(known):
            rows.append(known)
    rejected: dict[str, str] = {}
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
        rows += [m for m in made if m.id not in stale]
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

"""What happens to catalogue updates between their decoding and their commit.

    decode -> coalesce per product -> version guard and merge -> images -> features -> embedding -> product.embeddings

Only the model's inputs decide about inference: a product whose text and images hash to what its stored embedding was
made of is not embedded again. With no model released yet, features are kept and embeddings follow with the release.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import msgspec
import numpy as np

from feature_repo.errors import InvalidFeatureError
from feature_repo.rows import Deletion, ProductEmbedding, ProductFeatures
from inference.client import Embedded
from inference.errors import ArtifactError, InputError
from inference.inputs import VECTOR_DIM, Float32Array, ProductInput, content_hash
from streaming.contracts import ProductUpdate, ProductVector, decode_update, image_links
from streaming.dead_letters import DeadLetter
from streaming.errors import ContractError, ImageError
from streaming.merging import VIEWS, Product, changed_views, in_order, merge

_LINKS_REMEMBERED = 100_000


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
    """What a batch makes of one product, and the record of its last update, which is to blame for failures."""

    product: Product
    record: Any


class CatalogPipeline:
    """Handles batches of records of `catalog.updates`. Every write is idempotent by (product, version).

    Args:
        embedder: asked for each batch, so that a release takes effect at once; None before the first release.
        clock: the present, aware.
        images_again_after: an image that could not be had is tried again when its product is next touched, but not
            sooner than this, unless the update names the image: a server that is away must not slow every price change.
    """

    def __init__(
        self,
        store: FeatureStore,
        images: ImageVectors,
        embedder: Callable[[], Embedder | None],
        publish: Publish,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        *,
        images_again_after: timedelta = timedelta(minutes=5),
    ) -> None:
        self._store, self._images, self._embedder, self._publish, self._clock = store, images, embedder, publish, clock
        self._images_again_after = images_again_after
        self._not_before: dict[str, datetime] = {}  # links that failed

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
            before = stored.get(product_id)
            if change := self._merge(before, updates, outcome):
                changes[product_id] = change
            elif before and self._to_fetch(before, Product.of(before), updates):
                changes[product_id] = _Change(Product.of(before), updates[-1].record)
        alive = {i: change for i, change in changes.items() if not change.product.deleted}
        written = self._write_features(stored, alive, received, outcome)
        self._delete([c.product for c in changes.values() if c.product.deleted], outcome)
        # Also products of which this batch brings nothing new: their newer features may have been written just before a
        # crash, and this update may be the one that their embedding came from.
        untouched = [p for i, p in stored.items() if i not in changes and not p.deleted]
        blame = {i: changes[i].record if i in changes else updates[-1].record for i, updates in received.items()}
        versions = {i: _versions(updates, stored.get(i)) for i, updates in received.items()}
        since = {i: _earliest(updates) for i, updates in received.items()}
        self._embed([*written, *untouched], versions, blame, since, outcome)

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
        last = None
        for update in updates:
            record = record_of[id(update)]
            try:
                current = merge(current, update)
            except ContractError as error:
                outcome.refuse(record, "merge", error)
                continue
            last = record
        if current is None or last is None:
            return None
        return _Change(current, last)

    def _write_features(
        self,
        stored: Mapping[str, ProductFeatures],
        changes: Mapping[str, _Change],
        received: Mapping[str, Sequence[Received]],
        outcome: Outcome,
    ) -> list[ProductFeatures]:
        """Write what changed, view by view; returns the products as they now are, without those found stale."""
        visual_version = self._images.visual_version
        wanted = {i: self._to_fetch(stored.get(i), c.product, received[i]) for i, c in changes.items()}
        found = self._fetch(list(dict.fromkeys(link for links in wanted.values() for link in links)))
        rows: dict[tuple[str, ...], list[ProductFeatures]] = defaultdict(list)
        for product_id, change in changes.items():
            before = stored.get(product_id)
            changed = set(changed_views(before, change.product, visual_version))
            if wanted[product_id]:
                changed.add("images")
            views = tuple(view for view in VIEWS if view in changed)
            row = _features(change.product, before)
            if "images" in views:
                known = _images_of(before, visual_version)
                known |= {link: f for link in wanted[product_id] if not isinstance(f := found[link], ImageError)}
                _set_images(row, change.product.links, known, visual_version)
            # A version that changes nothing is still recorded: an older one must not pass later.
            rows[views or ("offer",)].append(row)
            outcome.counts["features_" + ("_".join(views) or "unchanged")] += 1
        stale: set[str] = set()
        for names, of_views in rows.items():
            stale |= self._store.write_features(of_views, names)
        outcome.counts["stale"] += len(stale)
        written = [row for part in rows.values() for row in part if row.id not in stale]
        for row in written:
            errors = {link: f for link in wanted[row.id] if isinstance(f := found[link], ImageError)}
            _refuse_images(errors, received[row.id], outcome)
        return written

    def _to_fetch(self, before: ProductFeatures | None, product: Product, received: Sequence[Received]) -> list[str]:
        """The product's images that are not there, without those that failed lately and no update here names."""
        there = _images_of(before, self._images.visual_version)
        named = {link for r in received for link in image_links(r.update) or ()}
        now = self._clock()
        return [
            link
            for link in product.links
            if link not in there and (link in named or self._not_before.get(link, now) <= now)
        ]

    def _fetch(self, links: Sequence[str]) -> Mapping[str, tuple[str, Float32Array] | ImageError]:
        found = self._images.vectors(links) if links else {}
        if len(self._not_before) > _LINKS_REMEMBERED:
            self._not_before.clear()
        for link, image in found.items():
            if isinstance(image, ImageError):
                self._not_before[link] = self._clock() + self._images_again_after
        return found

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
        since: Mapping[str, int],
        outcome: Outcome,
    ) -> None:
        # Asked for only now: with features written before the question, a release that goes live after it finds them.
        embedder = self._embedder()
        if embedder is None:
            self._expect_no_model()
            outcome.counts["no_model"] += len(products)
            return
        rejected = embed_and_publish(
            products,
            self._store,
            embedder,
            self._publish,
            source_time=lambda product_id: since[product_id],
            # A crash may have come between an embedding's writing and its publishing; then the update that caused it
            # is in this batch again.
            republish=lambda embedding: embedding.version in versions[embedding.id],
            counts=outcome.counts,
        )
        for product_id, reason in rejected.items():
            outcome.refuse(blame[product_id], "embed", ContractError("", reason))

    def _expect_no_model(self) -> None:
        """To go on without a model is right before the first release only; later, old vectors would stay for good."""
        if versions := self._store.model_versions():
            raise ArtifactError(
                f"no release is live, but the feature store has embeddings of model versions {', '.join(versions)}: "
                "mount the model repository or put its LIVE file back; a first release under way brings it by itself"
            )


def _images_of(stored: ProductFeatures | None, visual_version: str) -> dict[str, tuple[str, Float32Array]]:
    """The images that a product has already, as this visual encoder saw them."""
    if stored is None or stored.deleted or stored.visual_version != visual_version:
        return {}
    had = [(link, digest) for link, digest in zip(stored.image_urls, stored.image_hashes, strict=True) if digest]
    return {link: (digest, vector) for (link, digest), vector in zip(had, stored.image_vectors, strict=True)}


def _set_images(
    row: ProductFeatures, links: Sequence[str], known: Mapping[str, tuple[str, Float32Array]], visual_version: str
) -> None:
    """All links that the catalogue wants, and what could be had of them."""
    row.image_urls = list(links)
    row.image_hashes = [known[link][0] if link in known else "" for link in links]
    vectors = [known[link][1] for link in links if link in known]
    row.image_vectors = np.stack(vectors) if vectors else np.zeros((0, VECTOR_DIM), np.float32)
    row.visual_version = visual_version


def _refuse_images(errors: Mapping[str, ImageError], received: Sequence[Received], outcome: Outcome) -> None:
    """One dead letter for a product's images that cannot be had: the newest update that names one of them.

    Told by what the product lacks, not by what was just applied: after a crash that update may be stale. An update
    that names none of them (a price, after which they were tried again) is not to blame.
    """
    if not errors:
        return
    for r in sorted(received, key=lambda r: r.update.version, reverse=True):
        if not errors.keys().isdisjoint(image_links(r.update) or ()):
            outcome.refuse(r.record, "image", ImageError("; ".join(map(str, errors.values()))))
            return
    outcome.counts["images_still_missing"] += len(errors)


def _versions(received: Sequence[Received], stored: ProductFeatures | None) -> set[int]:
    """Versions that this batch may have given an embedding to: its own, and the stored one if it brought its images."""
    versions = {r.update.version for r in received}
    if stored and any(not set(stored.image_urls).isdisjoint(image_links(r.update) or ()) for r in received):
        versions.add(stored.version)
    return versions


def _inputs_hash(product: ProductFeatures) -> str:
    return content_hash(product.text, [h for h in product.image_hashes if h], product.visual_version)


def _earliest(received: Sequence[Received]) -> int:
    """When the first of the updates that a batch folds into one product arrived, in Kafka's milliseconds.

    Those before the last full statement are superseded. One that is stale by now counts: before a crash it was not.
    """
    counting, _ = in_order([r.update for r in received], 0)
    kept = {id(update) for update in counting}
    return min(int(r.record.timestamp) for r in received if id(r.update) in kept)


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
    still holds goes on the topic again. A rejected product's earlier embedding is deleted: it is that of what the
    product no longer is.
    """
    if not products:
        return {}
    version = embedder.model_version
    stored = store.read_embeddings(version, [p.id for p in products])
    hashes = {p.id: _inputs_hash(p) for p in products}
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
        gone = [
            _tombstone(fresh[i], version)
            for i in answer.rejected
            if (known := stored.get(fresh[i].id)) and (not known.deleted or republish(known))
        ]
        stale = store.write_embeddings(version, [*made, *gone])
        rows += [m for m in (*made, *gone) if m.id not in stale]
        counts["embedded"] += len(made)
    publish([(version, r.id, r.version, None if r.deleted else _message(r, source_time(r.id))) for r in rows])
    return rejected


def _tombstone(product: ProductFeatures, model_version: str) -> ProductEmbedding:
    return ProductEmbedding(
        id=product.id,
        version=product.version,
        event_time=product.event_time,
        model_version=model_version,
        content_hash="",
        vector=np.zeros(VECTOR_DIM, np.float32),
        deleted=True,
    )


def _message(row: ProductEmbedding, source_time: int) -> ProductVector:
    return ProductVector(
        id=row.id,
        version=row.version,
        model_version=row.model_version,
        content_hash=row.content_hash,
        vector=ProductVector.pack(row.vector),
        source_time=source_time,
    )

"""What happens to catalogue updates between their decoding and their commit, in three stages.

    features     decode -> coalesce per product -> version guard and merge -> images -> feature store
    embeddings   what the model reads has changed? -> model -> feature store
    publishing   product.embeddings, product.offers, dead letters

A stage works on one batch while the next stage is at the batch before it (`streaming.consumer.loop`); each sees the
batches in
order, and every write is guarded by version, so that it comes to the same as one batch at a time.

Only the model's inputs decide about inference: a product whose text and images hash to what its stored embedding was
made of is not embedded again. With no model released yet, features are kept and embeddings follow with the release.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Protocol

import msgspec
import numpy as np

from feature_repo.errors import InvalidFeatureError
from feature_repo.rows import Deletion, OfferRow, ProductFeatures
from inference.arrays import Float32Array
from inference.errors import ArtifactError, InputError
from inference.inputs import VECTOR_DIM
from streaming.catalogue.embed import Embedder, EmbeddingStore, Outgoing, Publish, embed, publish_newest
from streaming.catalogue.merging import (
    VIEWS,
    Product,
    changed_views,
    in_order,
    is_offer_patch,
    merge,
    merge_offer,
    offer_changed,
)
from streaming.catalogue.settled import InOrder, Settled
from streaming.consumer.observer import NO_OBSERVER, Observer
from streaming.consumer.poison import PoisonGuard
from streaming.contracts import ProductUpdate, check_update, image_links
from streaming.dead_letters.writer import FailedRecord
from streaming.errors import ContractError, ImageError
from streaming.kafka.codec import Codec
from streaming.tracing import traceparent
from streaming.vectors.offer_topic import OutgoingOffer, PublishOffers, attributes, offer_of, publish_offers

_LINKS_REMEMBERED = 100_000


class FeatureStore(EmbeddingStore, Protocol):
    """The part of `feature_repo.store.ProductFeatureStore` that the pipeline needs."""

    def read_features(self, ids: Iterable[str]) -> dict[str, ProductFeatures]: ...
    def write_features(self, products: Sequence[ProductFeatures], views: Sequence[str]) -> set[str]: ...
    def versions(self, ids: Iterable[str]) -> dict[str, int]: ...
    def read_offers(self, ids: Iterable[str]) -> dict[str, OfferRow]: ...
    def write_offers(self, offers: Sequence[OfferRow]) -> set[str]: ...
    def delete(self, deletions: Sequence[Deletion]) -> set[str]: ...
    def model_versions(self) -> list[str]: ...


class ImageVectors(Protocol):
    """Links -> (content hash, vector) or the error; see `streaming.catalogue.images.vectors`."""

    visual_version: str

    def vectors(self, links: Sequence[str]) -> Mapping[str, tuple[str, Float32Array] | ImageError]: ...


class Received(msgspec.Struct, frozen=True):
    """A decoded update and the record that it came in."""

    record: Any
    update: ProductUpdate


class Outcome(msgspec.Struct):
    """What became of a batch: dead letters still to be sent, counts by what was done, fields that were kept out."""

    dead_letters: list[FailedRecord] = []
    counts: Counter[str] = msgspec.field(default_factory=Counter)
    unknown_fields: Counter[str] = msgspec.field(default_factory=Counter)

    def refuse(self, record: Any, stage: str, error: Exception) -> None:
        self.dead_letters.append(FailedRecord(record, stage, type(error).__name__, str(error)))
        self.counts[f"refused_{stage}"] += 1

    def add(self, other: Outcome) -> None:
        self.dead_letters += other.dead_letters
        self.counts.update(other.counts)
        self.unknown_fields.update(other.unknown_fields)


class Prepared(msgspec.Struct):
    """A batch on its way: what is written so far, what the later stages need. A stage leaves what it got as it is."""

    outcome: Outcome = msgspec.field(default_factory=Outcome)
    products: list[ProductFeatures] = []  # whose inputs of the model are to be looked at
    received: dict[str, Sequence[Received]] = {}
    changed_by: dict[str, Any] = {}  # record of a product's last update that counted
    gone: list[Deletion] = []
    offers: list[OutgoingOffer] = []  # that changed, or that may not be published yet
    offers_only: list[str] = []  # products whose embedding was found in order under `model_version`
    model_version: str | None = None
    vectors: list[Outgoing] = []
    rejected: Collection[str] = ()

    def add(self, other: Prepared) -> None:
        self.outcome.add(other.outcome)
        self.products += other.products
        self.changed_by |= other.changed_by
        self.gone += other.gone
        self.offers += other.offers
        self.offers_only += other.offers_only

    def blame(self, product_id: str) -> Any:
        """The record that a failure of this product is due to."""
        return self.changed_by.get(product_id) or self.received[product_id][-1].record


class _Change(msgspec.Struct):
    """What a batch makes of one product, and the record of its last update, which is to blame for failures."""

    product: Product
    record: Any


class CatalogPipeline:
    """Handles batches of records of `catalog.updates`. Every write is idempotent by (product, version).

    What the contract let through and a later step refuses is found by halving: it alone becomes a dead letter.

    Args:
        embedder: asked for each batch, so that a release takes effect at once; None before the first release.
        clock: the present, aware.
        images_again_after: an image that could not be had is tried again when its product is next touched, but not
            sooner than this, unless the update names the image: a server that is away must not slow every price change.

    Attributes:
        poison: refuses to go on when too many messages are refused; None: never.
        observer: hears what became of each batch.
    """

    def __init__(
        self,
        store: FeatureStore,
        images: ImageVectors,
        embedder: Callable[[], Embedder | None],
        publish: Publish,
        publish_offers: PublishOffers,
        codec: Codec,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        *,
        images_again_after: timedelta = timedelta(minutes=5),
    ) -> None:
        self._store, self._images, self._embedder, self._publish, self._clock = store, images, embedder, publish, clock
        self._publish_offers, self._codec = publish_offers, codec
        self._images_again_after = images_again_after
        self._not_before: dict[str, datetime] = {}  # links that failed
        self._settled = Settled()
        self.poison: PoisonGuard | None = None
        self.observer: Observer = NO_OBSERVER

    def process(self, records: Sequence[Any]) -> Outcome:
        """All stages; everything about these records is written when this returns."""
        return self.publishing(self.embeddings(self.features(records)))

    def features(self, records: Sequence[Any]) -> Prepared:
        """The first stage: features are written when this returns.

        Raises:
            PoisonRateError: too many of the messages that were read lately cannot be used.
            RegistryError: a schema registry is in use and does not answer; nothing of the batch is written.
        """
        prepared = Prepared()
        received = self._decode(records, prepared.outcome)
        if self.poison and records:
            letters = prepared.outcome.dead_letters
            batch = records[0].partition, records[0].offset
            self.poison.count(batch, len(records), len(letters), letters[0].message if letters else "")
        prepared.received = received
        prepared.model_version = self._settled.model_version
        self._write(received, prepared)
        return prepared

    def embeddings(self, batch: Prepared) -> Prepared:
        """The second stage: embeddings are written when this returns."""
        done = msgspec.structs.replace(batch, outcome=Outcome(), vectors=[])
        done.outcome.add(batch.outcome)
        counts = done.outcome.counts
        # Asked for only now: with features written before the question, a release that goes live after it finds them.
        embedder = self._embedder()
        if embedder is None:
            self._expect_no_model()
            done.model_version = None
            counts["no_model"] += len(batch.products) + len(batch.offers_only)
        else:
            done.model_version = embedder.model_version
            if batch.offers_only and embedder.model_version != batch.model_version:
                more = self._store.read_features(batch.offers_only).values()
                done.products = [*batch.products, *(p for p in more if not p.deleted)]
            done.vectors, rejected = embed(
                done.products,
                self._store,
                embedder,
                source_time=lambda product_id: _earliest(batch.received[product_id]),
                # A crash may have come between an embedding's writing and its publishing. One that is older than every
                # update here is of a batch that was committed, and so published; any other may not be.
                republish=lambda product_id, state: state.version >= _oldest(batch.received[product_id]),
                counts=counts,
            )
            for product_id, reason in rejected.items():
                done.outcome.refuse(batch.blame(product_id), "embed", ContractError("", reason))
            done.rejected = rejected
        if batch.gone:  # on the topic under every model version that a reader may follow
            models = self._store.model_versions()
            done.vectors += [(model, d.id, d.version, None) for d in batch.gone for model in models]
        return done

    def publishing(self, batch: Prepared) -> Outcome:
        """The last stage: all is on both topics when this returns. Dead letters are the caller's to send."""
        traces = {i: found for i, *_ in batch.offers if (found := traceparent(batch.blame(i)))}
        publish_offers(
            batch.offers,
            self._store,
            partial(self._publish_offers, traces=traces) if traces else self._publish_offers,
            lambda product_id: _earliest(batch.received[product_id]),
        )
        traces = {i: found for _, i, *_ in batch.vectors if (found := traceparent(batch.blame(i)))}
        publish_newest(batch.vectors, self._store, partial(self._publish, traces=traces) if traces else self._publish)
        if batch.model_version is not None:
            settled = {
                p.id: InOrder(p.version, p.text["product_type"]) for p in batch.products if self._is_settled(p, batch)
            }
            self._settled.add(batch.model_version, self._images.visual_version, settled)
        now = self._clock().timestamp() * 1000
        self.observer.fresh([now - vector.source_time for *_, vector in batch.vectors if vector is not None])
        self.observer.counted(batch.outcome.counts)
        if batch.outcome.unknown_fields:
            self.observer.unknown_fields(batch.outcome.unknown_fields)
        return batch.outcome

    def _is_settled(self, product: ProductFeatures, batch: Prepared) -> bool:
        if product.id in batch.rejected or "" in product.image_hashes:
            return False
        return not product.image_urls or product.visual_version == self._images.visual_version

    def _decode(self, records: Sequence[Any], outcome: Outcome) -> dict[str, Sequence[Received]]:
        by_product: dict[str, list[Received]] = defaultdict(list)
        now = self._clock()
        for record in records:
            try:
                update = self._codec.decode(ProductUpdate, record.value, outcome.unknown_fields)
                check_update(update, now=now)
                if record.key != update.id.encode():
                    raise ContractError("id", "must be the record's key, which keeps one product's updates in order")
                by_product[update.id].append(Received(record, update))
            except ContractError as error:
                outcome.refuse(record, "decode", error)
        return dict(by_product)

    def _write(self, received: Mapping[str, Sequence[Received]], into: Prepared) -> None:
        """Features of these products; halved when the store refuses them as a whole, until one update is alone."""
        part = Prepared(received=dict(received))
        try:
            self._write_all(received, part)
        except (InvalidFeatureError, InputError) as error:
            for half in _halves(received):
                self._write(half, into)
            if sum(map(len, received.values())) == 1:
                ((only,),) = received.values()
                into.outcome.refuse(only.record, "store", error)
        else:
            into.add(part)

    def _write_all(self, received: Mapping[str, Sequence[Received]], into: Prepared) -> None:
        received = self._write_offers(received, into)
        if not received:
            return
        self._settled.forget(received)
        outcome = into.outcome
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
        into.gone = self._delete([c.product for c in changes.values() if c.product.deleted], outcome)
        into.offers += [offer_of(p) for p in written if _is_offer_due(stored.get(p.id), p, received[p.id])]
        into.offers += [(d.id, d.version, None) for d in into.gone]
        # Also products of which this batch brings nothing new: their newer features may have been written just before a
        # crash, and this update may be the one that their embedding came from.
        into.products = [*written, *(p for i, p in stored.items() if i not in changes and not p.deleted)]
        into.changed_by = {i: change.record for i, change in changes.items()}

    def _write_offers(
        self, received: Mapping[str, Sequence[Received]], into: Prepared
    ) -> Mapping[str, Sequence[Received]]:
        """The quick way for products of which only price and availability change; returns the others.

        Only for those that were found in order at the very version that is stored: no image missing, and embedded.
        """
        if self._settled.visual_version != self._images.visual_version:
            return received
        candidates = {
            i: updates
            for i, updates in received.items()
            if i in self._settled and all(is_offer_patch(r.update) for r in updates)
        }
        if not candidates:
            return received
        counts = into.outcome.counts
        rows: list[OfferRow] = []
        due: list[OutgoingOffer] = []
        for product_id, before in self._store.read_offers(candidates).items():
            known = self._settled.at(product_id, before.version)
            if before.deleted or known is None:
                continue
            updates, stale = in_order([r.update for r in candidates[product_id]], before.version)
            counts["stale"] += stale
            into.offers_only.append(product_id)
            if not updates:
                continue
            row = merge_offer(before, updates)
            changed = offer_changed(before, row)
            counts["features_offer" if changed else "features_unchanged"] += 1
            rows.append(row)
            if changed or updates[0].version == before.version:  # as `_is_offer_due`
                due.append((row.id, row.version, attributes(row, known.product_type)))
        refused = self._store.write_offers(rows)
        into.offers += [offer for offer in due if offer[0] not in refused]
        counts["stale"] += len(refused)
        counts["embedding_unchanged"] += len(into.offers_only)
        self._settled.advance({row.id: row.version for row in rows if row.id not in refused})
        quick = set(into.offers_only)
        return {i: updates for i, updates in received.items() if i not in quick}

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
        """The product's images that are not there, without those that failed lately and no update here names.

        All of them when an update says that they changed; a stale one too, for what is behind a link has no version.
        """
        if any(r.update.refresh_images for r in received):
            return list(product.links)
        there = _images_of(before, self._images.visual_version)
        if there.keys() >= set(product.links):
            return []
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

    def _delete(self, products: Sequence[Product], outcome: Outcome) -> list[Deletion]:
        """Tombstones in the store; those that it took."""
        if not products:
            return []
        gone = [Deletion(id=p.id, version=p.version, event_time=p.event_time) for p in products]
        stale = self._store.delete(gone)
        outcome.counts["stale"] += len(stale)
        outcome.counts["deleted"] += len(gone) - len(stale)
        return [d for d in gone if d.id not in stale]

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
        if r.update.refresh_images or not errors.keys().isdisjoint(image_links(r.update) or ()):
            outcome.refuse(r.record, "image", ImageError("; ".join(map(str, errors.values()))))
            return
    outcome.counts["images_still_missing"] += len(errors)


def _is_offer_due(before: ProductFeatures | None, after: ProductFeatures, received: Sequence[Received]) -> bool:
    """Whether what a product is filtered by is to be published.

    Also for an update that the store has already: a crash may have come between its writing and its publishing.
    """
    if before is None or before.deleted or any(r.update.version == before.version for r in received):
        return True
    return offer_changed(before, after) or before.text["product_type"] != after.text["product_type"]


def _oldest(received: Sequence[Received]) -> int:
    """The smallest version among a product's updates of a batch."""
    return min(r.update.version for r in received)


def _earliest(received: Sequence[Received]) -> int:
    """When the first of the updates that a batch folds into one product arrived, in Kafka's milliseconds.

    Those before the last full statement are superseded. One that is stale by now counts: before a crash it was not.
    """
    if len(received) == 1:
        return int(received[0].record.timestamp)
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


def _halves(received: Mapping[str, Sequence[Received]]) -> list[dict[str, Sequence[Received]]]:
    """By products; of a single one, its updates."""
    items: list[tuple[str, Sequence[Received]]] = list(received.items())
    if len(items) == 1:
        ((product_id, updates),) = items
        items = [(product_id, [update]) for update in updates]
    if len(items) < 2:
        return []
    middle = len(items) // 2
    parts = []
    for some in (items[:middle], items[middle:]):
        part: dict[str, Sequence[Received]] = {}
        for product_id, updates in some:
            part[product_id] = [*part.get(product_id, ()), *updates]
        parts.append(part)
    return parts

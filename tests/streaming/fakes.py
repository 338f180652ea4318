"""Stand-ins with the semantics of the real thing: version guards, the order of records, what a crash leaves behind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from feature_repo.rows import Deletion, EmbeddingState, OfferRow, ProductEmbedding, ProductFeatures
from inference.arrays import Float32Array
from inference.inputs import ProductInput
from inference.retrieval import Attributes
from inference.triton.client import Embedded
from streaming.errors import ImageError
from streaming.kafka.compacted import NO_TRACES
from streaming.vectors.offers import filter_attributes
from streaming.vectors.publisher import OutgoingOffer, OutgoingVector
from tests.streaming.builders import vector_of

VIEWS = ("text", "images", "offer")


class Crash(Exception):
    """The process dies here."""


class FakeStore:
    """`ProductFeatureStore` in memory: per view a row with its version; older versions are refused."""

    def __init__(self, versions: Sequence[str] = ("1",)) -> None:
        self.views: dict[str, dict[str, ProductFeatures]] = {view: {} for view in VIEWS}
        self.embeddings: dict[str, dict[str, ProductEmbedding]] = {v: {} for v in versions}
        self.before: Callable[[str], None] = lambda call: None

    def read_features(self, ids: Iterable[str]) -> dict[str, ProductFeatures]:
        out = {}
        for i in ids:
            if i in self.views["text"]:
                text, images, offer = (self.views[view][i] for view in VIEWS)
                out[i] = msgspec.structs.replace(
                    text,
                    version=max(row.version for row in (text, images, offer)),
                    image_urls=images.image_urls,
                    image_hashes=images.image_hashes,
                    image_vectors=images.image_vectors,
                    visual_version=images.visual_version,
                    amount_minor=offer.amount_minor,
                    currency=offer.currency,
                    availability=offer.availability,
                )
        return out

    def write_features(self, products: Sequence[ProductFeatures], views: Sequence[str]) -> set[str]:
        self.before("write_features")
        stale = set()
        for product in products:
            if any(product.version < self.views[v][product.id].version for v in VIEWS if product.id in self.views[v]):
                stale.add(product.id)
                continue
            stored = self.views["text"].get(product.id)
            assert set(views) == set(VIEWS) or (stored and not stored.deleted), "a new product needs all views"
            for view in VIEWS:
                if view in views:
                    self.views[view][product.id] = product
                else:
                    self.views[view][product.id] = msgspec.structs.replace(
                        self.views[view][product.id], version=product.version
                    )
        return stale

    def versions(self, ids: Iterable[str]) -> dict[str, int]:
        return {i: max(self.views[view][i].version for view in VIEWS) for i in ids if i in self.views["text"]}

    def read_offers(self, ids: Iterable[str]) -> dict[str, OfferRow]:
        names = OfferRow.__struct_fields__
        rows = (self.views["offer"][i] for i in ids if i in self.views["offer"])
        return {row.id: OfferRow(**{name: getattr(row, name) for name in names}) for row in rows}

    def write_offers(self, offers: Sequence[OfferRow]) -> set[str]:
        return self.write_features([ProductFeatures(**msgspec.structs.asdict(row)) for row in offers], ["offer"])

    def delete(self, deletions: Sequence[Deletion]) -> set[str]:
        self.before("delete")
        stale = set()
        for gone in deletions:
            rows = [self.views[view].get(gone.id) for view in VIEWS]
            if any(row is not None and gone.version < row.version for row in rows):
                stale.add(gone.id)
                continue
            row = ProductFeatures(id=gone.id, version=gone.version, event_time=gone.event_time, deleted=True)
            for view in VIEWS:
                self.views[view][gone.id] = row
            for version, rows_of in self.embeddings.items():
                rows_of[gone.id] = ProductEmbedding(
                    id=gone.id,
                    version=gone.version,
                    event_time=gone.event_time,
                    model_version=version,
                    content_hash="",
                    vector=np.zeros(256, np.float32),
                    deleted=True,
                )
        return stale

    def model_versions(self) -> list[str]:
        return sorted(self.embeddings)

    def read_embeddings(self, model_version: str, ids: Iterable[str]) -> dict[str, ProductEmbedding]:
        rows = self.embeddings[model_version]
        return {i: rows[i] for i in ids if i in rows}

    def embedding_states(self, model_version: str, ids: Iterable[str]) -> dict[str, EmbeddingState]:
        rows = self.read_embeddings(model_version, ids)
        return {i: EmbeddingState(row.version, row.content_hash, row.deleted) for i, row in rows.items()}

    def write_embeddings(self, model_version: str, embeddings: Sequence[ProductEmbedding]) -> set[str]:
        self.before("write_embeddings")
        stale = set()
        rows = self.embeddings[model_version]
        for row in embeddings:
            if row.id in rows and row.version < rows[row.id].version:
                stale.add(row.id)
            else:
                rows[row.id] = row
        return stale

    def product_ids(self) -> Iterable[str]:
        return [p.id for p in self.read_features(list(self.views["text"])).values() if not p.deleted]

    def scan_features(self, batch: int = 512) -> Iterable[list[ProductFeatures]]:
        live = [p for p in self.read_features(list(self.views["text"])).values() if not p.deleted]
        for start in range(0, len(live), batch):
            yield live[start : start + batch]

    def ensure_model_version(self, model_version: str) -> None:
        self.embeddings.setdefault(model_version, {})


class FakeEmbedder:
    """A model whose vector depends on its version, the text and the images, and on nothing else."""

    def __init__(self, model_version: str = "1") -> None:
        self.model_version = model_version
        self.embedded: list[str] = []
        self.poison: set[str] = set()  # titles that the model refuses

    def embed_products(self, products: Sequence[ProductInput]) -> Embedded:
        self.embedded += [p.id for p in products]
        rejected = {i: "token_ids" for i, p in enumerate(products) if p.text["title"] in self.poison}
        vectors = np.stack(
            [vector_of(self.model_version, sorted(p.text.items()), p.images.tobytes()) for p in products]
        )
        vectors[list(rejected)] = np.nan
        return Embedded(vectors, rejected, self.model_version)


class FakeImages:
    """Every link is an image whose content is its link, but for those that are broken."""

    def __init__(self, visual_version: str = "v1") -> None:
        self.visual_version = visual_version
        self.broken: set[str] = set()
        self.asked: list[str] = []

    def vectors(self, links: Sequence[str]) -> Mapping[str, tuple[str, Float32Array] | ImageError]:
        self.asked += links
        return {
            link: ImageError(f"{link}: is no image")
            if link in self.broken
            else (f"hash of {link}", vector_of(self.visual_version, link))
            for link in links
        }


class FakeTopic:
    """`product.embeddings`: a log, and what a new reader makes of it."""

    def __init__(self) -> None:
        self.log: list[OutgoingVector] = []

    def __call__(self, records: Sequence[OutgoingVector], /, traces: Mapping[str, bytes] = NO_TRACES) -> None:
        self.log += records

    def compacted(self, model_version: str = "1") -> dict[str, str]:
        """Vectors by product, by the last record of each key alone, as after compaction."""
        last = {(m, i): message for m, i, _, message in self.log}
        return {i: v.vector for (m, i), v in last.items() if m == model_version and v is not None}


class FakeOffers:
    """`product.offers`: a log, and what a new reader makes of it."""

    def __init__(self) -> None:
        self.log: list[tuple[str, int, Attributes | None]] = []
        self.times: dict[str, int] = {}

    def __call__(self, records: Sequence[OutgoingOffer], /, traces: Mapping[str, bytes] = NO_TRACES) -> None:
        self.log += [(i, version, message and filter_attributes(message)) for i, version, message in records]
        self.times |= {i: message.source_time for i, _, message in records if message is not None}

    def compacted(self) -> dict[str, Attributes]:
        """Attributes by product, by the last record of each key alone, as after compaction."""
        last = {i: attributes for i, _, attributes in self.log}
        return {i: attributes for i, attributes in last.items() if attributes is not None}


class CompactedProducer:
    """A Kafka producer whose records are acknowledged, or all fail, when they are flushed."""

    def __init__(self, fail: Exception | None = None) -> None:
        self.fail = fail
        self.sent: list[tuple[str, bytes, bytes | None, dict[str, bytes]]] = []

    def send(self, topic: str, *, key: bytes, value: bytes | None, headers: Any) -> CompactedProducer:
        self.sent.append((topic, key, value, dict(headers)))
        return self

    def flush(self, timeout: float) -> None:
        if self.fail:
            raise self.fail

    def get(self, timeout: float) -> None:
        if self.fail:
            raise self.fail

    def close(self, timeout: float) -> None: ...

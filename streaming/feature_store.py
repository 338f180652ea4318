"""The interface of the feature store: the parts of `feature_repo.store.ProductFeatureStore` that each module needs.

Writes refuse rows that are older than the stored ones and return their product ids. Ids that were never written are
absent from the results of reads; deleted products are present, with `deleted=True`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from feature_repo.rows import Deletion, EmbeddingState, OfferRow, ProductEmbedding, ProductFeatures


class FeatureReader(Protocol):
    """Reads features."""

    def read_features(self, ids: Iterable[str]) -> Mapping[str, ProductFeatures]:
        """Return all features by product id."""

    def versions(self, ids: Iterable[str]) -> Mapping[str, int]:
        """Return product versions by product id."""


class FeatureScanner(FeatureReader, Protocol):
    """Reads the whole catalogue."""

    def scan_features(self, batch: int) -> Iterator[list[ProductFeatures]]:
        """Yield all live products in lists of at most `batch`."""


class EmbeddingStore(Protocol):
    """Reads and writes the embeddings of a model version."""

    def embedding_states(self, model_version: str, ids: Iterable[str]) -> Mapping[str, EmbeddingState]:
        """Return version and content hash of the stored embeddings by product id, without the vectors."""

    def read_embeddings(self, model_version: str, ids: Iterable[str]) -> Mapping[str, ProductEmbedding]:
        """Return the stored embeddings by product id."""

    def write_embeddings(self, model_version: str, embeddings: Sequence[ProductEmbedding]) -> set[str]:
        """Write embeddings; return the ids that were refused as stale."""


class CatalogStore(FeatureReader, EmbeddingStore, Protocol):
    """The store of the catalogue consumer."""

    def write_features(self, products: Sequence[ProductFeatures], views: Sequence[str]) -> set[str]:
        """Write the named views of products; return the ids that were refused as stale."""

    def read_offers(self, ids: Iterable[str]) -> Mapping[str, OfferRow]:
        """Return price, availability and version by product id; much faster than all features."""

    def write_offers(self, offers: Sequence[OfferRow]) -> set[str]:
        """Write price and availability; return the ids that were refused as stale."""

    def delete(self, deletions: Sequence[Deletion]) -> set[str]:
        """Write tombstones into every view; return the ids that were refused as stale."""

    def model_versions(self) -> list[str]:
        """Return the model versions that have embeddings."""


class IndexSource(Protocol):
    """The store from which a retrieval index is rebuilt."""

    def scan_embeddings(self, model_version: str, batch: int = 4096) -> Iterator[list[ProductEmbedding]]:
        """Yield all live embeddings of a model version in lists of at most `batch`."""

    def read_features(self, ids: Iterable[str]) -> Mapping[str, ProductFeatures]:
        """Return all features by product id."""


class ReembeddingStore(EmbeddingStore, Protocol):
    """The store for embedding a whole catalogue."""

    def product_ids(self) -> Iterable[str]:
        """Return the ids of all live products."""

    def read_features(self, ids: Iterable[str]) -> Mapping[str, ProductFeatures]:
        """Return all features by product id."""


class ReleaseStore(ReembeddingStore, FeatureScanner, Protocol):
    """The store of a release: one view of embeddings for each model version."""

    def ensure_model_version(self, model_version: str) -> None:
        """Create the view of a model version if it is missing."""


class CanaryStore(Protocol):
    """The store for comparing the vectors of two model versions."""

    def product_ids(self) -> Iterable[str]:
        """Return the ids of all live products."""

    def read_embeddings(self, model_version: str, ids: Iterable[str]) -> Mapping[str, ProductEmbedding]:
        """Return the stored embeddings by product id."""

"""What a service holds for each model version: an index that follows the topics, is kept in shape, saved and judged.

    with FollowedIndex(kafka, "3", folder=state / "retrieval" / "3") as followed:
        followed.catch_up(600)
        shop = Recommender(followed.index, search, main_images, observe=followed.monitor.observe)

An index is kept in files only to start sooner: the topics and the feature store each hold all that it is made of.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np

from feature_repo.rows import ProductEmbedding, ProductFeatures
from inference.errors import ArtifactError
from inference.inputs import Float32Array
from inference.retrieval import MonitorSettings, RecallEstimate, RecallMonitor, RetrievalIndex
from streaming.errors import BrokerError
from streaming.kafka.connection import Connection
from streaming.vectors.embedding_topic import Applied, IndexFollower
from streaming.vectors.offer_topic import attributes_of

log = logging.getLogger(__name__)

_TICK_S = 1.0


class Upkeep(msgspec.Struct, frozen=True, kw_only=True):
    """How an index is kept in shape. `docs/retrieval.md` says what each costs."""

    save_every_s: float = 900.0  # while requests are answered; it is saved at the end too
    compact_at_wear: float = 2.0  # nodes taken out of the graph per product (`RetrievalIndex.wear`)
    removed_kept: int = 10_000  # removed products that are remembered, so that no late vector brings them back


class FollowedIndex:
    """An index of one model version with its follower, its upkeep and its recall monitor. A context manager.

    Args:
        folder: where the index is kept between runs, one folder for each model version; None: it is filled anew at
            each start. What is there and cannot be used is said in the log and written over.
        on_applied, on_offer: as for `IndexFollower`.
    """

    def __init__(
        self,
        connection: Connection,
        model_version: str,
        *,
        folder: Path | None = None,
        on_applied: Applied | None = None,
        on_offer: Applied | None = None,
        upkeep: Upkeep | None = None,
        monitor: MonitorSettings | None = None,
    ) -> None:
        self.index = load_index(folder, model_version) if folder is not None else RetrievalIndex(model_version)
        self.follower = IndexFollower(connection, self.index, on_applied, on_offer=on_offer)
        self.monitor = RecallMonitor(lambda: self.index, monitor)
        self._folder, self._upkeep = folder, upkeep or Upkeep()
        self._saved: dict[str, int] = {}
        self._saving = threading.Lock()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self.monitor.run, args=(self._stop,), name="recall-monitor", daemon=True),
            threading.Thread(target=self._keep_up, name="index-upkeep", daemon=True),
        ]

    def start(self) -> FollowedIndex:
        """Begin to follow.

        Raises:
            TopicError: a topic does not exist.
            BrokerError: the broker cannot be reached.
        """
        self.follower.start()
        for thread in self._threads:
            thread.start()
        return self

    def __enter__(self) -> FollowedIndex:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def catch_up(self, timeout_s: float) -> bool:
        """Whether everything that is on the topics now is applied within the time."""
        return self.follower.catch_up(timeout_s)

    def recall(self) -> RecallEstimate:
        """How well live queries were answered lately, by the judgement of exact search."""
        return self.monitor.estimate()

    @property
    def healthy(self) -> bool:
        """Whether it has read what was there when it began, and still follows."""
        return self.follower.current and self.follower.following

    def save(self) -> None:
        """Write the index and how far it is into its folder.

        Raises:
            OSError: the folder cannot be written; what was saved before is still whole.
        """
        if self._folder is None:
            return
        with self._saving:
            position = self.follower.position()  # first: what is applied after it is only applied again
            self.index.save(self._folder, position)
            self._saved = position

    def close(self) -> None:
        """Stop following, and save what was followed."""
        self._stop.set()
        began = self.follower.following
        self.follower.close()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()
        if began and self.follower.current:
            self.save()

    def _keep_up(self) -> None:
        next_save = 0.0
        while not self._stop.wait(_TICK_S):
            try:
                self._mend()
                if self.follower.current and time.monotonic() >= next_save:
                    next_save = time.monotonic() + self._upkeep.save_every_s
                    if self.follower.position() != self._saved:
                        self.save()
            except Exception:
                log.exception("the index of model version %s is not kept up", self.index.model_version)

    def _mend(self) -> None:
        """Forget removed products and build the graph anew, where it is time to."""
        if forgotten := self.index.forget_removed(max(self._upkeep.removed_kept, len(self.index) // 4)):
            log.info("%d removed products are forgotten", forgotten)
        if self.index.wear > self._upkeep.compact_at_wear and len(self.index) > self.index.settings.exact_up_to:
            started = time.monotonic()
            self.index.compact(threads=1)
            log.info("the graph of %d products is built anew in %.1f s", len(self.index), time.monotonic() - started)


def load_index(folder: Path, model_version: str) -> RetrievalIndex:
    """The index saved there; an empty one, and a line in the log, where none is or it cannot be used."""
    try:
        index = RetrievalIndex.load(folder, model_version)
    except ArtifactError as error:
        log.warning("the index of model version %s is built anew: %s", model_version, error)
        return RetrievalIndex(model_version)
    log.info("an index of %d products is loaded from %s", len(index), folder)
    return index


class EmbeddingStore(Protocol):
    """The part of `feature_repo.store.ProductFeatureStore` that an index is rebuilt from."""

    def scan_embeddings(self, model_version: str, batch: int = 4096) -> Iterator[list[ProductEmbedding]]: ...
    def read_features(self, ids: Iterable[str]) -> dict[str, ProductFeatures]: ...


def index_from_topics(connection: Connection, model_version: str, *, timeout_s: float = 3600.0) -> RetrievalIndex:
    """An index of all that is on the topics now.

    Raises:
        TopicError: a topic does not exist.
        BrokerError: the broker cannot be reached, or does not give everything in time.
    """
    index = RetrievalIndex(model_version)
    with IndexFollower(connection, index) as follower:
        if not follower.catch_up(timeout_s):
            raise BrokerError(f"the topics were not read to their ends within {timeout_s:g} s")
        index.position = follower.position()
    return index


def index_from_features(
    store: EmbeddingStore, model_version: str, *, position: Mapping[str, int] | None = None
) -> RetrievalIndex:
    """An index of all that the feature store holds: the same as from the topics.

    Args:
        position: where on the topics a follower of this index goes on: `end_position`, asked before. What is on the
            topics was in the store first, so nothing is missed.

    Raises:
        UnknownModelVersionError: the store has no embeddings of this model version.
    """
    index = RetrievalIndex(model_version)
    index.position = dict(position or {})
    for page in store.scan_embeddings(model_version):
        index.upsert_many(
            [row.id for row in page],
            [row.version for row in page],
            np.stack([_as_published(row.vector) for row in page]),
            model_version=model_version,
        )
        for product in store.read_features([row.id for row in page]).values():
            if not product.deleted:
                index.set_attributes(product.id, product.version, attributes_of(product))
    return index


def _as_published(vector: Float32Array) -> Float32Array:
    """What is left of a vector on the topic, so that both ways lead to the same bits."""
    return vector.astype(np.float16).astype(np.float32)

"""An index that follows the topics, with upkeep, saving and a recall monitor. A service has one for each model version.

    with FollowedIndex(kafka, "3", folder=state / "retrieval" / "3") as followed:
        followed.catch_up(600)
        shop = Recommender(followed.index, search, main_images, observe=followed.monitor.observe)

The saved files only make the start faster: the topics and the feature store each contain all data of the index.
"""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

import msgspec

from inference.errors import ArtifactError
from inference.retrieval import MonitorSettings, RecallEstimate, RecallMonitor, RetrievalIndex
from streaming.kafka.connection import Connection
from streaming.vectors.follower import IndexFollower
from streaming.vectors.index_updates import OnApplied

log = logging.getLogger(__name__)


class Upkeep(msgspec.Struct, frozen=True, kw_only=True):
    """Settings for the upkeep of an index. `docs/shops/retrieval.md` states their costs.

    Attributes:
        save_every_s: Seconds between two saves while the index serves requests; it is also saved when it is closed.
        compact_at_wear: Rebuild the graph above this number of removed nodes per product (`RetrievalIndex.wear`).
        removed_kept: Number of removed products to remember, so that a late vector does not bring them back.
        check_every_s: Seconds between two checks of the above.
    """

    save_every_s: float = 900.0
    compact_at_wear: float = 2.0
    removed_kept: int = 10_000
    check_every_s: float = 1.0


class FollowedIndex:
    """An index of one model version with its follower, its upkeep and its recall monitor. A context manager.

    Args:
        connection: The brokers.
        model_version: Model version of the vectors.
        folder: Folder of the saved index, one per model version. None fills the index from the topics at each start. A
            saved index that cannot be used is logged and overwritten.
        on_vector: Called for each accepted vector; see `IndexFollower`.
        on_offer: Called for each accepted offer; see `IndexFollower`.
        upkeep: Settings for the upkeep.
        monitor: Settings of the recall monitor.

    Attributes:
        index: The index.
        follower: Follows the topics.
        monitor: Estimates the recall of live queries.
    """

    def __init__(
        self,
        connection: Connection,
        model_version: str,
        *,
        folder: Path | None = None,
        on_vector: OnApplied | None = None,
        on_offer: OnApplied | None = None,
        upkeep: Upkeep | None = None,
        monitor: MonitorSettings | None = None,
    ) -> None:
        self.index = load_index(folder, model_version) if folder is not None else RetrievalIndex(model_version)
        self.follower = IndexFollower(connection, self.index, on_vector, on_offer=on_offer)
        self.monitor = RecallMonitor(lambda: self.index, monitor)
        self._folder, self._upkeep = folder, upkeep or Upkeep()
        self._saved: dict[str, int] = {}
        self._saving = threading.Lock()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self.monitor.run, args=(self._stop,), name="recall-monitor", daemon=True),
            threading.Thread(target=self._run_upkeep, name="index-upkeep", daemon=True),
        ]

    def start(self) -> FollowedIndex:
        """Start to follow; return the index itself.

        Raises:
            TopicError: A topic does not exist.
            BrokerError: The broker does not answer or denies access.
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
        """Wait until everything that is on the topics now is applied; return whether that happened in time."""
        return self.follower.catch_up(timeout_s)

    def recall(self) -> RecallEstimate:
        """Return the recall of recent live queries, compared with exact search."""
        return self.monitor.estimate()

    @property
    def healthy(self) -> bool:
        """Whether the index has caught up with the topics at least once and still follows them."""
        return self.follower.current and self.follower.following

    def save(self) -> None:
        """Save the index and its position in its folder.

        Raises:
            OSError: The folder cannot be written; the earlier saved index is intact.
        """
        if self._folder is None:
            return
        with self._saving:
            position = self.follower.position()  # before saving: later records are applied again
            self.index.save(self._folder, position)
            self._saved = position

    def close(self) -> None:
        """Stop following, and save the index."""
        self._stop.set()
        was_following = self.follower.following
        self.follower.close()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()
        if was_following and self.follower.current:
            self.save()

    def _run_upkeep(self) -> None:
        next_save = 0.0
        while not self._stop.wait(self._upkeep.check_every_s):
            try:
                self._maintain()
                if self.follower.current and time.monotonic() >= next_save:
                    next_save = time.monotonic() + self._upkeep.save_every_s
                    if self.follower.position() != self._saved:
                        self.save()
            except Exception:
                log.exception("the upkeep of the index of model version %s failed", self.index.model_version)

    def _maintain(self) -> None:
        """Forget removed products and rebuild the graph, if the limits of the upkeep are exceeded."""
        if forgotten := self.index.forget_removed(max(self._upkeep.removed_kept, len(self.index) // 4)):
            log.info("forgot %d removed products", forgotten)
        if self.index.wear > self._upkeep.compact_at_wear and len(self.index) > self.index.settings.exact_up_to:
            started = time.monotonic()
            self.index.compact(threads=1)
            log.info("rebuilt the graph of %d products in %.1f s", len(self.index), time.monotonic() - started)


def load_index(folder: Path, model_version: str) -> RetrievalIndex:
    """Load a saved index; if that is impossible, log the reason and return an empty index."""
    try:
        index = RetrievalIndex.load(folder, model_version)
    except ArtifactError as error:
        log.warning("the index of model version %s is rebuilt: %s", model_version, error)
        return RetrievalIndex(model_version)
    log.info("loaded an index of %d products from %s", len(index), folder)
    return index

"""Whether a new release may follow the live one: both are there, each with its recall and the catalogue's vectors.

A release with right weights may still be a bad one: trained on too little, on a feed that was broken that day, or
collapsed to one direction. Two signs tell without a shopper: its recall on held-out engagements, and how many of their
nearest neighbours products keep. What a better model does to shoppers, only an experiment says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from feature_repo.errors import InvalidFeatureError
from feature_repo.monitoring.canary import compare
from inference.releases.release import release_metadata
from inference.releases.repository import find_release
from streaming.errors import ReleaseError

RECALL = "mean_recall_at_10"
"""In a release's metadata: Recall@10 on its run's held-out engagements, the mean of the tasks."""


class CanaryStore(Protocol):
    """The part of `feature_repo.store.ProductFeatureStore` that vectors of two models are compared in."""

    def product_ids(self) -> Iterable[str]: ...
    def read_embeddings(self, model_version: str, ids: Iterable[str]) -> Mapping[str, Any]: ...


class ReleaseLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What a release must reach.

    min_recall: its recall as a share of the live one's. Both are of their own runs' engagements, so they differ a bit.
    min_overlap: how many of their neighbours products must keep, as a multiple of what two unrelated models would.
    """

    min_recall: float = 0.9
    min_overlap: float = 2.0


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """A release beside the live one; None where a release does not know its recall, or for too few products."""

    live: str
    live_recall: float | None
    recall: float | None
    products: int = 0
    overlap: float | None = None
    overlap_by_chance: float | None = None


class ReleaseCheck:
    """Compares, and refuses; to be given to `streaming.release.release`."""

    def __init__(self, repo: Path, store: CanaryStore, limits: ReleaseLimits | None = None) -> None:
        self._repo, self._store, self._limits = repo, store, limits or ReleaseLimits()

    def __call__(self, live: str, version: str) -> Comparison:
        """Raises ReleaseError when the release is too much worse than the live one, or too different."""
        found = compared(self._repo, self._store, live, version)
        if reasons := objections(found, self._limits):
            raise ReleaseError(
                f"release {version} does not become live: {'; '.join(reasons)}. Release {live} stays. To take it all "
                f"the same: sagelift model live {version}"
            )
        return found


def compared(repo: Path, store: CanaryStore, live: str, version: str) -> Comparison:
    """A release beside the live one; the catalogue must be embedded with both."""
    live_recall, recall = (release_metadata(find_release(repo, v).path).get(RECALL) for v in (live, version))
    try:
        drift = compare(store, live, version)
    except InvalidFeatureError:  # too few products to have neighbours
        return Comparison(live=live, live_recall=live_recall, recall=recall)
    return Comparison(
        live=live,
        live_recall=live_recall,
        recall=recall,
        products=drift.products,
        overlap=drift.overlap,
        overlap_by_chance=drift.overlap_by_chance,
    )


def objections(found: Comparison, limits: ReleaseLimits) -> Sequence[str]:
    """What speaks against the release, one clause each."""
    said = []
    if found.recall is not None and found.live_recall and found.recall < limits.min_recall * found.live_recall:
        said.append(
            f"its Recall@10 is {found.recall:.3f}, under {limits.min_recall:.0%} of the live one's "
            f"{found.live_recall:.3f}"
        )
    if found.overlap is not None and found.overlap_by_chance is not None:
        least = min(0.5, limits.min_overlap * found.overlap_by_chance)  # of few products chance alone keeps many
        if found.overlap < least:
            said.append(
                f"{found.products} products keep {found.overlap:.1%} of their nearest neighbours, under {least:.1%}"
            )
    return said

"""Decide whether a new release may replace the live one.

A release with valid weights may still be bad: trained on too little data or on a broken feed, or collapsed to one
direction. Two figures show this without any shopper: its recall on held-out engagements, and how many
of their nearest neighbours the products keep. Only an experiment shows how shoppers react to a better model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from feature_repo.errors import InvalidFeatureError
from feature_repo.monitoring.canary import compare
from inference.releases.release import release_metadata
from inference.releases.repository import find_release
from streaming.errors import ReleaseError
from streaming.feature_store import CanaryStore

RECALL = "mean_recall_at_10"
"""Field of a release's metadata: Recall@10 on the held-out engagements of its training run, mean over the tasks."""


class ReleaseLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits for a new release.

    Attributes:
        min_recall: Smallest recall, as a share of the live release's. The two recalls come from the engagements of two
            training runs, so they differ a little anyway.
        min_overlap: Smallest share of kept neighbours, as a multiple of the share that two unrelated models would keep.
    """

    min_recall: float = 0.9
    min_overlap: float = 2.0


class ReleaseComparison(msgspec.Struct, frozen=True, kw_only=True):
    """A new release beside the live one.

    Attributes:
        live: Version of the live release.
        live_recall: Recall@10 of the live release, None if its metadata has none.
        recall: Recall@10 of the new release, None if its metadata has none.
        products: Number of products whose neighbours were compared; 0 if there are too few.
        overlap: Mean share of its nearest neighbours that a product keeps, in [0, 1].
        overlap_by_chance: The share that two unrelated models would keep.
    """

    live: str
    live_recall: float | None
    recall: float | None
    products: int = 0
    overlap: float | None = None
    overlap_by_chance: float | None = None


class ReleaseCheck:
    """Compares a new release with the live one and refuses a bad one; the `check` of `make_live`.

    Args:
        repo: The model repository.
        store: The feature store with the vectors of both releases.
        limits: The limits for a new release.
    """

    def __init__(self, repo: Path, store: CanaryStore, limits: ReleaseLimits | None = None) -> None:
        self._repo, self._store, self._limits = repo, store, limits or ReleaseLimits()

    def __call__(self, live: str, version: str) -> ReleaseComparison:
        """Compare two releases, by their versions.

        Raises:
            ReleaseError: The new release is much worse than the live one, or too different.
        """
        comparison = compare_releases(self._repo, self._store, live, version)
        if reasons := objections(comparison, self._limits):
            raise ReleaseError(
                f"release {version} does not become live: {'; '.join(reasons)}. Release {live} stays live. To switch "
                f"anyway: sagelift model live {version}"
            )
        return comparison


def compare_releases(repo: Path, store: CanaryStore, live: str, version: str) -> ReleaseComparison:
    """Compare a new release with the live one; the catalogue must be embedded with both.

    Raises:
        ArtifactError: The repository does not have one of the releases.
    """
    live_recall, recall = (release_metadata(find_release(repo, v).path).get(RECALL) for v in (live, version))
    try:
        drift = compare(store, live, version)
    except InvalidFeatureError:  # too few products to have neighbours
        return ReleaseComparison(live=live, live_recall=live_recall, recall=recall)
    return ReleaseComparison(
        live=live,
        live_recall=live_recall,
        recall=recall,
        products=drift.products,
        overlap=drift.overlap,
        overlap_by_chance=drift.overlap_by_chance,
    )


def objections(comparison: ReleaseComparison, limits: ReleaseLimits) -> Sequence[str]:
    """Return the reasons to refuse a release, one clause each; a figure that is None is no reason."""
    reasons = []
    recall, live_recall = comparison.recall, comparison.live_recall
    if recall is not None and live_recall and recall < limits.min_recall * live_recall:
        reasons.append(
            f"its Recall@10 is {recall:.3f}, under {limits.min_recall:.0%} of the live release's {live_recall:.3f}"
        )
    if comparison.overlap is not None and comparison.overlap_by_chance is not None:
        # With few products, chance alone keeps many neighbours: never require more than half.
        min_overlap = min(0.5, limits.min_overlap * comparison.overlap_by_chance)
        if comparison.overlap < min_overlap:
            reasons.append(
                f"{comparison.products} products keep {comparison.overlap:.1%} of their nearest neighbours, under "
                f"{min_overlap:.1%}"
            )
    return reasons

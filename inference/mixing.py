"""Mix the candidates of a user's interests into one list."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from inference.arrays import Float32Array
from inference.errors import InputError
from inference.retrieval import Candidates


class Mixing(msgspec.Struct, frozen=True, kw_only=True):
    """How the lists of a user's interests are mixed.

    Raises:
        InputError: If `half_life` is not above 0 or `diversity` is not between 0 and 1.
    """

    # The weight of an engagement halves with each so many later engagements; the weight of an interest is the sum over
    # its engagements. None: all interests have the same weight.
    half_life: float | None = None
    # 0: by similarity alone. Above: maximal marginal relevance (Carbonell and Goldstein, 1998) with lambda = 1 - this.
    diversity: float = 0.0

    def __post_init__(self) -> None:
        if self.half_life is not None and not self.half_life > 0:
            raise InputError(f"half_life ({self.half_life}) must be above 0; leave it out for equal weights")
        if not 0 <= self.diversity <= 1:
            raise InputError(f"diversity ({self.diversity}) must be between 0 and 1")


class Interest(NamedTuple):
    """The candidates of one interest."""

    source: str  # the product of the history that stands for the interest
    candidates: Candidates
    weight: float = 1.0


def mix(
    interests: Sequence[Interest],
    excluded: Iterable[str],
    k: int,
    *,
    diversity: float = 0.0,
    vectors: Mapping[str, Float32Array] | None = None,
) -> tuple[list[str], list[str]]:
    """Fill `k` places from the interests by their weights; each product occurs once.

    Each place goes to the interest with the most weight per place, counting the place to be filled (Webster's method of
    apportionment); interests with equal weights take turns. An interest without candidates leaves its places to the
    others.

    Args:
        interests: The interests, the most recent first.
        excluded: Products that must not occur.
        k: Number of places.
        diversity: 0 takes the best candidate of the interest. Otherwise a candidate's value is `1 - diversity` times
            its score minus `diversity` times its greatest cosine to a chosen product of any interest.
        vectors: Unit vectors of the candidates, for `diversity`. A candidate without a vector was removed since it was
            found, and is skipped.

    Returns:
        Product ids, and for each the source of the interest that it comes from.
    """
    taken = set(excluded)
    ids: list[str] = []
    sources: list[str] = []
    queues = [_Queue(interest.candidates, taken, diversity, vectors or {}) for interest in interests]
    places = [0] * len(queues)
    open_queues = list(range(len(queues)))
    while open_queues and len(ids) < k:
        turn = max(open_queues, key=lambda q: (interests[q].weight / (2 * places[q] + 1), -q))
        pick = queues[turn].best()
        if pick is None:
            open_queues.remove(turn)
            continue
        places[turn] += 1
        taken.add(pick)
        ids.append(pick)
        sources.append(interests[turn].source)
        for other in open_queues:
            queues[other].note(pick)
    return ids, sources


class _Queue:
    """The remaining candidates of one interest. All queues share the set `taken`."""

    def __init__(
        self, candidates: Candidates, taken: set[str], diversity: float, vectors: Mapping[str, Float32Array]
    ) -> None:
        self._taken, self._diversity, self._vectors = taken, diversity, vectors
        self._rest = iter(candidates.ids)
        if diversity:
            pairs = [(c, s) for c, s in zip(*candidates, strict=True) if c in vectors and c not in taken]
            self._ids = [c for c, _ in pairs]
            self._scores = np.array([s for _, s in pairs], np.float32)
            self._matrix = np.array([vectors[c] for c in self._ids], np.float32)
            self._closest = np.full(len(pairs), -1, np.float32)  # greatest cosine to a chosen product

    def best(self) -> str | None:
        """Return the best remaining candidate, or None."""
        if not self._diversity:
            return next((c for c in self._rest if c not in self._taken), None)
        value = (1 - self._diversity) * self._scores - self._diversity * self._closest
        order = np.argsort(-value, kind="stable")
        return next((self._ids[i] for i in order if self._ids[i] not in self._taken), None)

    def note(self, product_id: str) -> None:
        """Take into account that a product was chosen."""
        if self._diversity and self._ids:
            np.maximum(self._closest, self._matrix @ self._vectors[product_id], out=self._closest)

"""Candidates for the shop's three surfaces from one index: image (similar products), search, user (for you)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from inference.arrays import Float32Array
from inference.errors import InputError
from inference.queries import interests
from inference.retrieval import Candidates, Filter, RetrievalIndex

EncodeSearches = Callable[[Sequence[str]], Float32Array]
Observe = Callable[[Float32Array, int, Filter | None], None]
# One filter for all requests of a batch, or one for each.
Where = Filter | Sequence[Filter | None] | None


class Mixing(msgspec.Struct, frozen=True, kw_only=True):
    """How the lists of a user's interests become one.

    Raises:
        InputError: a half-life that is not above 0, a diversity outside 0 to 1.
    """

    # After so many products engaged with since, an engagement weighs half as much; an interest gets places by the sum
    # over its engagements. None: all interests get the same number.
    half_life: float | None = None
    # 0: by similarity alone. Above: maximal marginal relevance (Carbonell and Goldstein, 1998) with lambda = 1 - this.
    diversity: float = 0.0

    def __post_init__(self) -> None:
        if self.half_life is not None and not self.half_life > 0:
            raise InputError(f"half_life ({self.half_life}) must be above 0; leave it out for equal places")
        if not 0 <= self.diversity <= 1:
            raise InputError(f"diversity ({self.diversity}) must be from 0 to 1")


class Interest(NamedTuple):
    """One interest's candidates, the best first, and its share of the places."""

    source: str  # the product of the history that asks for it
    candidates: Candidates
    weight: float = 1.0


class Recommender:
    """Queries in, product ids out; batches of requests, each with a filter of its own or one for all.

    Every surface raises `InputError` for a filter on a currency or a category that no product ever had.

    Args:
        index: the candidates of one model version, or of the *Sum* baseline.
        search: search texts -> `[B, 256]` in the image space (`SearchQueries`).
        main_images: each product's main image vector `[256]`, for image queries.
        mixing: how a user's interests are mixed.
        observe: told of all queries (`RecallMonitor.observe`).
    """

    def __init__(
        self,
        index: RetrievalIndex,
        search: EncodeSearches,
        main_images: Mapping[str, Float32Array],
        *,
        mixing: Mixing | None = None,
        observe: Observe | None = None,
    ) -> None:
        self.index = index
        self._search = search
        self._main_images = main_images
        self._mixing = mixing or Mixing()
        self._observe = observe

    @property
    def model_version(self) -> str:
        """Of the vectors that answer: `Live` switches recommenders, the index with the encoder that belongs to it."""
        return self.index.model_version

    def __len__(self) -> int:
        return len(self.index)

    def for_image(self, product_ids: Sequence[str], k: int = 10, *, where: Where = None) -> list[list[str]]:
        """Products similar to each of these, the product itself left out; none for one without an image."""
        zero = np.zeros(self.index.dim, np.float32)
        queries = np.stack([self._main_images.get(p, zero) for p in product_ids]) if product_ids else self._no_queries()
        found = self._find(queries, k + 1, _each(where, len(queries)))
        return [[c for c in one.ids if c != p][:k] for p, one in zip(product_ids, found, strict=True)]

    def for_search(self, texts: Sequence[str], k: int = 10, *, where: Where = None) -> list[list[str]]:
        """Products for each search text."""
        queries = self._search(texts) if texts else self._no_queries()
        return [one.ids for one in self._find(queries, k, _each(where, len(queries)))]

    def for_user(
        self, histories: Sequence[Sequence[str]], k: int = 10, *, where: Where = None
    ) -> list[tuple[list[str], list[str]]]:
        """Products for each recent history (product ids, the most recent last), and the interest behind each product.

        The history is clustered; each cluster's medoid is one query, and the lists are dealt out in turn, the most
        recent interest first, or as `Mixing` says. Products of the history are left out. An unknown history gives
        nothing.
        """
        asked: list[list[tuple[str, float]]] = []
        queries: list[Float32Array] = []
        filters: list[Filter | None] = []
        for history, one in zip(histories, _each(where, len(histories)), strict=True):
            latest = list(dict.fromkeys(reversed(history)))[::-1]  # each product once, at its last place
            vectors = self.index.vectors(latest)
            recent = np.stack(list(vectors.values())) if vectors else self._no_queries()
            chosen = interests(recent)
            ids = list(vectors)
            asked.append([(ids[i], w) for i, w in zip(chosen, self._weights(recent, chosen), strict=True)])
            queries += [recent[i] for i in chosen]
            filters += [one] * len(chosen)
        longest = max(map(len, histories), default=0)
        reach = k + longest if not self._mixing.diversity else 4 * k + longest  # something to choose from
        found = iter(self._find(np.stack(queries) if queries else self._no_queries(), reach, filters))
        return [
            self._mix([Interest(source, next(found), weight) for source, weight in some], set(history), k)
            for some, history in zip(asked, histories, strict=True)
        ]

    def _no_queries(self) -> Float32Array:
        return np.zeros((0, self.index.dim), np.float32)

    def _find(self, queries: Float32Array, k: int, where: Sequence[Filter | None]) -> list[Candidates]:
        found: list[Candidates] = [Candidates([], [])] * len(queries)
        asked: dict[Filter | None, list[int]] = defaultdict(list)
        for row, one in enumerate(where):
            asked[one].append(row)
        for one in asked:
            if one is not None:
                self.index.check(one)
        for one, rows in asked.items():
            for row, candidates in zip(rows, self.index.search(queries[rows], k, where=one), strict=True):
                found[row] = candidates
            if self._observe is not None:
                self._observe(queries[rows], k, one)
        return found

    def _weights(self, recent: Float32Array, medoids: Sequence[int]) -> list[float]:
        """Each interest's weight: of the engagements nearest to its medoid, by age."""
        if self._mixing.half_life is None or not medoids:
            return [1.0] * len(medoids)
        age = np.arange(len(recent))[::-1]
        weight = 0.5 ** (age / self._mixing.half_life)
        nearest = (recent @ recent[list(medoids)].T).argmax(1)
        return [float(weight[nearest == number].sum()) for number in range(len(medoids))]

    def _mix(self, some: Sequence[Interest], known: set[str], k: int) -> tuple[list[str], list[str]]:
        if not self._mixing.diversity:
            return deal(some, known, k)
        vectors = self.index.vectors([c for interest in some for c in interest.candidates.ids])
        return deal(some, known, k, diversity=self._mixing.diversity, vectors=vectors)


def _each(where: Where, requests: int) -> Sequence[Filter | None]:
    """The filter of each request."""
    if where is None or isinstance(where, Filter):
        return [where] * requests
    if len(where) != requests:
        raise InputError(f"{requests} requests need one filter for all or {requests}, not {len(where)}")
    return where


def deal(
    some: Sequence[Interest],
    known: Iterable[str],
    k: int,
    *,
    diversity: float = 0.0,
    vectors: Mapping[str, Float32Array] | None = None,
) -> tuple[list[str], list[str]]:
    """Fill `k` places from the interests by their weights, each product once, nothing known.

    Each place goes to the interest with the most weight per place had or to be had (Webster's method of apportionment);
    with equal weights they take turns. An interest without candidates leaves its places to the others.

    Args:
        diversity: 0: each interest gives its best. Otherwise what is best after `diversity` times the greatest cosine
            to what is dealt already, from any interest, is taken off `1 - diversity` times its own score.
        vectors: unit vectors of the candidates; needed for diversity. A candidate without one (removed since it was
            found) is passed over.

    Returns:
        Product ids, and the source of the interest that brought each.
    """
    taken = set(known)
    ids: list[str] = []
    sources: list[str] = []
    hands = [_Hand(interest.candidates, taken, diversity, vectors or {}) for interest in some]
    places = [0] * len(hands)
    playing = list(range(len(hands)))
    while playing and len(ids) < k:
        turn = max(playing, key=lambda h: (some[h].weight / (2 * places[h] + 1), -h))
        pick = hands[turn].best()
        if pick is None:
            playing.remove(turn)
            continue
        places[turn] += 1
        taken.add(pick)
        ids.append(pick)
        sources.append(some[turn].source)
        for other in playing:
            hands[other].dealt(pick)
    return ids, sources


class _Hand:
    """One interest's candidates that may still be dealt. `taken` is shared between the hands."""

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
            self._closest = np.full(len(pairs), -1, np.float32)  # greatest cosine to what is dealt

    def best(self) -> str | None:
        """What to deal next; None when nothing is left."""
        if not self._diversity:
            return next((c for c in self._rest if c not in self._taken), None)
        value = (1 - self._diversity) * self._scores - self._diversity * self._closest
        order = np.argsort(-value, kind="stable")
        return next((self._ids[i] for i in order if self._ids[i] not in self._taken), None)

    def dealt(self, product_id: str) -> None:
        """Take note of what came onto the table."""
        if self._diversity and self._ids:
            np.maximum(self._closest, self._matrix @ self._vectors[product_id], out=self._closest)

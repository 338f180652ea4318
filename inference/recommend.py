"""Recommend products on the shop's three surfaces from one index: similar products, search, and for the user."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from inference.arrays import Float32Array
from inference.errors import InputError
from inference.mixing import Interest, Mixing, mix
from inference.queries import interests
from inference.retrieval import Candidates, Filter, RetrievalIndex

EncodeSearches = Callable[[Sequence[str]], Float32Array]
"""Encodes search texts as `[B, 256]` vectors of the image space."""

Observe = Callable[[Float32Array, int, Filter | None], None]
"""Called with queries `[B, 256]`, the number of products asked for, and the filter."""

Where = Filter | Sequence[Filter | None] | None
"""One filter for all requests of a batch, or one for each."""


class Recommender:
    """Takes queries and returns product ids, in batches of requests.

    Each surface raises `InputError` for a filter on a currency or a category that no product ever had.

    Args:
        index: The candidates of one model version, or of the *Sum* baseline.
        search: Encodes search texts (`SearchQueries`).
        main_images: The main image vector `[256]` of each product, for image queries.
        mixing: How a user's interests are mixed; None for the defaults.
        observe: Called with all queries (`RecallMonitor.observe`); None for no observer.

    Attributes:
        index: The candidates.
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
        """The model version of the index. `Live` switches recommenders: the index with its search encoder."""
        return self.index.model_version

    def __len__(self) -> int:
        return len(self.index)

    def for_image(self, product_ids: Sequence[str], k: int = 10, *, where: Where = None) -> list[list[str]]:
        """Return products similar to each product, without the product itself; none for a product without an image.

        Args:
            product_ids: The products.
            k: Number of products per request.
            where: The filter or filters.
        """
        zero = np.zeros(self.index.dim, np.float32)
        queries = np.stack([self._main_images.get(p, zero) for p in product_ids]) if product_ids else self._no_queries()
        answers = self._find(queries, k + 1, _filters(where, len(queries)))
        return [[c for c in answer.ids if c != p][:k] for p, answer in zip(product_ids, answers, strict=True)]

    def for_search(self, texts: Sequence[str], k: int = 10, *, where: Where = None) -> list[list[str]]:
        """Return products for each search text.

        Args:
            texts: The search texts.
            k: Number of products per request.
            where: The filter or filters.
        """
        queries = self._search(texts) if texts else self._no_queries()
        return [answer.ids for answer in self._find(queries, k, _filters(where, len(queries)))]

    def for_user(
        self, histories: Sequence[Sequence[str]], k: int = 10, *, where: Where = None
    ) -> list[tuple[list[str], list[str]]]:
        """Return products for each user's recent history.

        The history is clustered, and each cluster's medoid is one query. The answers take turns, the most recent
        interest first, or are mixed as `Mixing` says. Products of the history are left out. An unknown history gets no
        products.

        Args:
            histories: Product ids of each user, the most recent last.
            k: Number of products per request.
            where: The filter or filters.

        Returns:
            For each user the product ids, and for each product the product of the history that stands for its
            interest.
        """
        sources: list[list[tuple[str, float]]] = []  # of each user: medoid and weight of each interest
        queries: list[Float32Array] = []
        filters: list[Filter | None] = []
        for history, one in zip(histories, _filters(where, len(histories)), strict=True):
            latest = list(dict.fromkeys(reversed(history)))[::-1]  # each product once, at its last place
            vectors = self.index.vectors(latest)
            recent = np.stack(list(vectors.values())) if vectors else self._no_queries()
            medoids = interests(recent)
            ids = list(vectors)
            sources.append([(ids[i], w) for i, w in zip(medoids, self._weights(recent, medoids), strict=True)])
            queries += [recent[i] for i in medoids]
            filters += [one] * len(medoids)
        longest = max(map(len, histories), default=0)
        reach = k + longest if not self._mixing.diversity else 4 * k + longest  # more candidates to choose from
        answers = iter(self._find(np.stack(queries) if queries else self._no_queries(), reach, filters))
        return [
            self._mix([Interest(source, next(answers), weight) for source, weight in own], set(history), k)
            for own, history in zip(sources, histories, strict=True)
        ]

    def _no_queries(self) -> Float32Array:
        return np.zeros((0, self.index.dim), np.float32)

    def _find(self, queries: Float32Array, k: int, where: Sequence[Filter | None]) -> list[Candidates]:
        """Search for all queries, together those with the same filter."""
        answers: list[Candidates] = [Candidates([], [])] * len(queries)
        rows_by_filter: dict[Filter | None, list[int]] = defaultdict(list)
        for row, one in enumerate(where):
            rows_by_filter[one].append(row)
        for one in rows_by_filter:
            if one is not None:
                self.index.check(one)
        for one, rows in rows_by_filter.items():
            for row, candidates in zip(rows, self.index.search(queries[rows], k, where=one), strict=True):
                answers[row] = candidates
            if self._observe is not None:
                self._observe(queries[rows], k, one)
        return answers

    def _weights(self, recent: Float32Array, medoids: Sequence[int]) -> list[float]:
        """Return each interest's weight: the sum over the engagements nearest to its medoid, discounted by age."""
        if self._mixing.half_life is None or not medoids:
            return [1.0] * len(medoids)
        age = np.arange(len(recent))[::-1]
        weight = 0.5 ** (age / self._mixing.half_life)
        nearest = (recent @ recent[list(medoids)].T).argmax(1)
        return [float(weight[nearest == number].sum()) for number in range(len(medoids))]

    def _mix(self, own: Sequence[Interest], history: set[str], k: int) -> tuple[list[str], list[str]]:
        if not self._mixing.diversity:
            return mix(own, history, k)
        vectors = self.index.vectors([c for interest in own for c in interest.candidates.ids])
        return mix(own, history, k, diversity=self._mixing.diversity, vectors=vectors)


def _filters(where: Where, requests: int) -> Sequence[Filter | None]:
    """Return the filter of each request."""
    if where is None or isinstance(where, Filter):
        return [where] * requests
    if len(where) != requests:
        raise InputError(f"{requests} requests need one filter for all or {requests} filters, not {len(where)}")
    return where

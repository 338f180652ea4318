"""Candidates for the shop's three surfaces from one index: image (similar products), search, user (for you)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from inference.inputs import VECTOR_DIM, Float32Array
from inference.queries import interests
from inference.retrieval import RetrievalIndex

EncodeSearches = Callable[[Sequence[str]], Float32Array]


class Recommender:
    """Queries in, product ids out.

    Args:
        index: the candidates of one model version, or of the *Sum* baseline.
        search: search texts -> `[B, 256]` in the image space (`SearchQueries`).
        main_images: each product's main image vector `[256]`, for image queries.
    """

    def __init__(self, index: RetrievalIndex, search: EncodeSearches, main_images: Mapping[str, Float32Array]) -> None:
        self.index = index
        self._search = search
        self._main_images = main_images

    def for_image(self, product_ids: Sequence[str], k: int = 10) -> list[list[str]]:
        """Products similar to each of these, the product itself left out; none for one without an image."""
        zero = np.zeros(VECTOR_DIM, np.float32)
        queries = np.stack([self._main_images.get(p, zero) for p in product_ids]) if product_ids else _no_queries()
        found = self.index.search(queries, k + 1)
        return [[c for c in one.ids if c != p][:k] for p, one in zip(product_ids, found, strict=True)]

    def for_search(self, texts: Sequence[str], k: int = 10) -> list[list[str]]:
        """Products for each search text."""
        return [one.ids for one in self.index.search(self._search(texts) if texts else _no_queries(), k)]

    def for_user(self, histories: Sequence[Sequence[str]], k: int = 10) -> list[tuple[list[str], list[str]]]:
        """Products for each recent history (product ids, the most recent last), and the interest behind each product.

        The history is clustered; each cluster's medoid is one query, and the lists are dealt out in turn, the most
        recent interest first. Products of the history are left out. An unknown history gives nothing.
        """
        medoids: list[list[str]] = []
        queries: list[Float32Array] = []
        for history in histories:
            latest = list(dict.fromkeys(reversed(history)))[::-1]  # each product once, at its last place
            vectors = self.index.vectors(latest)
            recent = list(vectors)
            chosen = [recent[i] for i in interests(np.stack(list(vectors.values())))] if recent else []
            medoids.append(chosen)
            queries += [vectors[m] for m in chosen]
        longest = max(map(len, histories), default=0)
        found = iter(self.index.search(np.stack(queries) if queries else _no_queries(), k + longest))
        return [
            _deal([(m, next(found).ids) for m in chosen], set(history), k)
            for chosen, history in zip(medoids, histories, strict=True)
        ]


def _deal(lists: Sequence[tuple[str, Sequence[str]]], known: Iterable[str], k: int) -> tuple[list[str], list[str]]:
    """Take from the lists in turn, each product once, nothing known: ids and the interest that brought each."""
    seen = set(known)
    ids: list[str] = []
    sources: list[str] = []
    turns = [(source, iter(candidates)) for source, candidates in lists]
    while turns and len(ids) < k:
        for turn in list(turns):
            source, candidates = turn
            pick = next((c for c in candidates if c not in seen), None)
            if pick is None:
                turns.remove(turn)
            elif len(ids) < k:
                seen.add(pick)
                ids.append(pick)
                sources.append(source)
    return ids, sources


def _no_queries() -> Float32Array:
    return np.zeros((0, VECTOR_DIM), np.float32)

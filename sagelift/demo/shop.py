"""The demo's shops: they answer the shoppers' requests.

Before the experiment a conventional shop answers with keyword search, visually similar products and some random ones,
so that the log covers more than what the old system preferred. During the experiment the recommender of the shopper's
arm answers. `to_event` turns the shoppers' actions into events.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Protocol

import numpy as np

from experiments.assigner import Assigner
from inference.recommend import Recommender
from inference.words import words
from sagelift.demo.shoppers import Action, Request, ShopProduct, Shown
from streaming.contracts import Event

LIST_LENGTH = 10
"""Products in one answer."""


class Answers(Protocol):
    """Answers a batch of requests."""

    def __call__(self, requests: Sequence[Request]) -> list[Shown]:
        """Return one list of products per request, in the order of the requests."""


class RecommenderAnswers:
    """Answers all three surfaces with one recommender."""

    def __init__(self, recommender: Recommender) -> None:
        self._recommender = recommender

    def __call__(self, requests: Sequence[Request]) -> list[Shown]:
        """Return one list of products per request."""
        by_surface: dict[str, list[int]] = defaultdict(list)
        for i, request in enumerate(requests):
            by_surface[request.surface].append(i)
        out = [Shown([], [])] * len(requests)
        for surface, rows in by_surface.items():
            if surface == "user":
                lists = self._recommender.for_user([requests[i].history for i in rows], LIST_LENGTH)
                answers = [Shown(ids, sources) for ids, sources in lists]
            else:
                find = self._recommender.for_image if surface == "image" else self._recommender.for_search
                ranked = find([requests[i].query for i in rows], LIST_LENGTH)
                answers = [Shown(ids, [requests[i].query] * len(ids)) for i, ids in zip(rows, ranked, strict=True)]
            for i, answer in zip(rows, answers, strict=True):
                out[i] = answer
        return out


class KeywordSearch:
    """Search by words of title and product type; rare words weigh more."""

    def __init__(self, products: Sequence[ShopProduct]) -> None:
        self._ids = [p.id for p in products]
        self._where: dict[str, list[int]] = defaultdict(list)
        for i, product in enumerate(products):
            for word in set(words(product.text.get("title", "") + " " + product.text.get("product_type", ""))):
                self._where[word].append(i)

    def __call__(self, text: str, k: int) -> list[str]:
        """Return the ids of the `k` best matches."""
        scores: Counter[int] = Counter()
        for word in set(words(text)):
            for i in self._where.get(word, ()):
                scores[i] += 1.0 / len(self._where[word])  # type: ignore[assignment]
        return [self._ids[i] for i, _ in scores.most_common(k)]


class UsualShop:
    """The shop before the experiment: keyword search, similar images, and some random products.

    Args:
        similar: Recommender by image similarity.
        products: All products.
        seed: Random seed.
        explore: Share of random products.
    """

    def __init__(self, similar: Recommender, products: Sequence[ShopProduct], seed: int, explore: float = 0.5) -> None:
        self._similar = RecommenderAnswers(similar)
        self._search = KeywordSearch(products)
        self._ids = [p.id for p in products]
        self._rng = np.random.default_rng(seed)
        self._explore = explore

    def __call__(self, requests: Sequence[Request]) -> list[Shown]:
        """Return one list of products per request."""
        visual = self._similar([r for r in requests if r.surface != "search"])
        others = iter(visual)
        out = []
        for request in requests:
            if request.surface == "search":
                ids = self._search(request.query, LIST_LENGTH)
                shown = Shown(ids, [request.query] * len(ids))
            else:
                shown = next(others)
            out.append(self._explored(request, shown))
        return out

    def _explored(self, request: Request, shown: Shown) -> Shown:
        ids, queries = list(shown.ids), list(shown.queries)
        for position in range(LIST_LENGTH):
            if position < len(ids) and self._rng.random() >= self._explore:
                continue
            pick = self._ids[int(self._rng.integers(len(self._ids)))]
            if pick in ids or pick == request.query:
                continue
            query = request.query or request.history[-1]
            if position < len(ids):
                ids[position], queries[position] = pick, query
            else:
                ids.append(pick)
                queries.append(query)
        return Shown(ids, queries)


class ExperimentShop:
    """The shop during the experiment: each arm's recommender answers, and each answer is logged as an exposure.

    Args:
        assigner: Assigns units to arms and logs exposures.
        experiment: Key of the experiment.
        arms: Recommender of each arm. The first one answers units that the experiment does not include.
    """

    def __init__(self, assigner: Assigner, experiment: str, arms: Mapping[str, Answers]) -> None:
        self._assigner, self._experiment, self._arms = assigner, experiment, arms

    def __call__(self, requests: Sequence[Request]) -> list[Shown]:
        """Return one list of products per request."""
        assignments = [self._assigner.assign(request.unit_id, self._experiment) for request in requests]
        by_arm: dict[str, list[int]] = defaultdict(list)
        for i, assignment in enumerate(assignments):
            by_arm[assignment.arm or next(iter(self._arms))].append(i)
        out = [Shown([], [])] * len(requests)
        for arm, rows in by_arm.items():
            for i, answer in zip(rows, self._arms[arm]([requests[i] for i in rows]), strict=True):
                out[i] = answer
        for assignment in assignments:  # only now, because an answer that failed was not shown
            self._assigner.expose(assignment)
        return out


def to_event(action: Action) -> Event:
    """Return an action as an event. Equal actions have equal ids, so sending one twice makes no second event."""
    name = f"{action.unit_id}/{action.number}/{action.surface}/{action.query}/{action.product_id}/{action.kind}"
    is_order = action.kind in ("order", "refund")
    return Event(
        event_id=_digest(name),
        kind=action.kind,
        unit_id=action.unit_id,
        event_time=action.at,
        product_id=action.product_id,
        surface=action.surface,
        query=action.query,
        order_id=_digest(f"{action.unit_id}/{action.number}/{action.product_id}") if is_order else None,
        amount_minor=action.amount_minor if is_order else None,
        currency=action.currency if is_order else None,
    )


def simulated_clock(start: datetime) -> tuple[Callable[[], int], Callable[[datetime], None]]:
    """Return a clock in microseconds and its setter, so that exposures get the simulated time."""
    now = [start]
    return lambda: int(now[0].timestamp() * 1e6), lambda at: now.__setitem__(0, at)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]

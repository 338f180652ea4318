"""A simulated engagement log: what shoppers would engage with if they saw the whole catalogue.

A real log holds only what its shop showed, so it favours models that rank like that shop (docs/research/log.md). Here
no recommender ranks: a shopper engages with products of the whole catalogue, and more often with those of a higher
utility.

A visit in the world of `sagelift.demo.shoppers` (hidden tastes, appeal and prices, which no model sees):

1. The intent t is a point of the taste space near some product, the budget b a share of the price range.
2. The query shows or names a product q that matches the intent, with probability ~ exp(12 t.place(q)). On the image
   surface the query is its main image, on the search surface two or three of its words.
3. The utility of product p is u = 5 t.place(p) + 0.7 appeal(p) - 2 max(0, price rank(p) - b).
4. The shopper clicks four products, drawn without replacement with probability ~ exp(2 u), never the query itself.
5. Each click may lead to a save and to a cart, more likely for a higher u; a cart may lead to a checkout. Of all
   clicks 5 % are saved, 2.6 % go into a cart and 0.84 % are bought (the last two are RetailRocket's totals per view).

Queries are drawn from products and never the reverse, so no feature of a product depends on a query. The pairs
(query, product) of the evaluation are held out of the training.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from inference.errors import InputError
from inference.training.engagements import Engagement, QueryKind
from sagelift.demo.shoppers import FloatArray, Market

IntArray = np.ndarray[Any, np.dtype[np.int64]]
_Action = Literal["click", "save", "add_to_cart", "checkout"]

_AT_ONCE = 1024  # visits whose utilities are in memory at the same time
_PHRASES = 6  # ways to search for one product
_CLICKS = 4
_SHARES: dict[_Action, float] = {"save": 0.05, "add_to_cart": 0.026, "checkout": 0.0084}  # of clicks


def simulate_log(market: Market, visits: int, seed: int) -> list[Engagement]:
    """Simulate engagements; equal ones are counted together. Market and seed decide the result.

    Args:
        market: The products and their hidden properties.
        visits: Number of visits.
        seed: Random seed.

    Raises:
        InputError: There are fewer than 20 products, or no visit.
    """
    if len(market.products) < 20 or visits < 1:
        raise InputError(
            f"{len(market.products)} products and {visits} visits make no engagement log: at least 20 products with a "
            "price and 1 visit are needed"
        )
    rng = np.random.default_rng([seed, 2])
    phrases = [[market.phrase(p, rng) for _ in range(_PHRASES)] for p in market.products]
    counts: Counter[tuple[QueryKind, str, int, str]] = Counter()
    for start in range(0, visits, _AT_ONCE):
        asked, clicked, utility = _visits(market, min(_AT_ONCE, visits - start), rng)
        actions = _actions(utility, rng)
        searches = rng.random(len(asked)) < 0.5
        for visit, query in enumerate(asked):
            phrase = phrases[query][int(rng.integers(_PHRASES))]
            search = bool(searches[visit]) and phrase != ""
            kind: QueryKind = "search" if search else "image"
            text = phrase if search else market.products[query].id
            for place, product in enumerate(clicked[visit]):
                counts.update(
                    (kind, text, int(product), action) for action, did in actions.items() if did[visit, place]
                )
    return [Engagement(kind, query, market.products[p].id, action, n) for (kind, query, p, action), n in counts.items()]


def ceiling(
    market: Market, log: Sequence[Engagement], queries: Sequence[tuple[QueryKind, str]]
) -> tuple[FloatArray, FloatArray]:
    """Return vectors that rank by the hidden truth: the best ranking without knowledge of the shopper.

    A search lies at the weighted mean of the products that its shoppers clicked.

    Args:
        market: The products and their hidden properties, `P` products.
        log: The engagements.
        queries: Kind and text of `Q` queries.

    Returns:
        Vectors of the products, `[P, 25]`, and of the queries, `[Q, 25]`.
    """
    index = market.index
    products = np.column_stack([5 * market.place, 0.7 * market.appeal])
    centre = {query: np.zeros(market.place.shape[1]) for kind, query in queries if kind == "search"}
    for e in log:
        if e.kind == "search" and e.query in centre:
            centre[e.query] += e.count * market.place[index[e.product_id]]
    places = [market.place[index[query]] if kind == "image" else centre[query] for kind, query in queries]
    unit = np.array(places) / np.maximum(np.linalg.norm(places, axis=1, keepdims=True), 1e-9)
    return products, np.column_stack([unit, np.ones(len(places))])


def _visits(market: Market, number: int, rng: np.random.Generator) -> tuple[IntArray, IntArray, FloatArray]:
    """Return the query products `[V]`, the clicked products `[V, 4]` and their utilities `[V, 4]`."""
    size, dim = market.place.shape
    intent = market.place[rng.integers(size, size=number)] + 0.12 * rng.normal(size=(number, dim))
    intent /= np.linalg.norm(intent, axis=1, keepdims=True)
    match = intent @ market.place.T
    asked = (12 * match + rng.gumbel(size=match.shape)).argmax(1)
    beyond = np.maximum(0.0, market.price_rank - rng.beta(2, 2, number)[:, None])
    utility = 5 * match + 0.7 * market.appeal - 2 * beyond
    # The largest log-weights with Gumbel noise are a draw without replacement.
    keys = 2 * utility + rng.gumbel(size=utility.shape)
    keys[np.arange(number), asked] = -np.inf
    clicked = np.argpartition(-keys, _CLICKS, axis=1)[:, :_CLICKS]
    return asked, clicked, np.take_along_axis(utility, clicked, 1)


def _actions(utility: FloatArray, rng: np.random.Generator) -> dict[str, np.ndarray[Any, np.dtype[np.bool_]]]:
    """Return which clicks led to which action, each `[V, 4]`."""
    eager = 1 / (1 + np.exp(3.0 - utility))
    eager /= max(float(eager.mean()), 1e-9)  # so that the shares hold on every catalogue
    cart = rng.random(utility.shape) < _SHARES["add_to_cart"] * eager
    return {
        "click": np.ones(utility.shape, bool),
        "save": rng.random(utility.shape) < _SHARES["save"] * eager,
        "add_to_cart": cart,
        "checkout": cart & (rng.random(utility.shape) < _SHARES["checkout"] / _SHARES["add_to_cart"]),
    }

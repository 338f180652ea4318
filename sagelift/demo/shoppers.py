"""Simulated shoppers with hidden tastes: the demo's world, in which no line knows who recommends.

Every value of a product's attributes (its type, brand, colour, material, price tier, the words of its title) has a
hidden direction in a 24-d taste space and a hidden appeal, both drawn by hash from the seed; a product is the weighted
sum of its values. No recommender ever sees these numbers. A shopper has one to three loves, points of the same space.
A visit has an intent near one love; a shown product is examined down the list with decaying patience, clicked by the
logistic of how well it matches intent and how appealing and affordable it is, and then perhaps saved, put into the
cart, bought, and sometimes returned. A recommender earns clicks and orders only by showing better products, so a
difference between two of them is a difference between their lists. What the world does decide is what there is to
know: some attributes show in images and texts (type, colour, pattern), some only in texts (brand, material) or the
price, so a recommender that reads texts and learns from clicks has something to gain over one that only looks.

Of the products looked at, about 2 % go into a cart and 0.9 % are bought, of the order of RetailRocket's published
totals per view (2.6 % and 0.84 %).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Literal

import msgspec
import numpy as np

Surface = Literal["user", "image", "search"]
ActionKind = Literal["impression", "click", "save", "add_to_cart", "order", "refund"]
FloatArray = np.ndarray[Any, np.dtype[np.floating[Any]]]

_DIM = 24
_PATIENCE = 0.85  # the chance to look at the next product of a list
_LIST = 10
_WEIGHTS = {
    **{"product_type": 1.2, "brand": 0.6, "color": 0.6, "material": 0.5, "pattern": 0.35, "tier": 0.5, "word": 0.5},
    "looks": 0.9,
}


class ShopProduct(msgspec.Struct, frozen=True):
    """What shoppers can see of a product."""

    id: str
    text: Mapping[str, str]
    amount_minor: int
    currency: str


class Action(msgspec.Struct, frozen=True):
    """One thing that one shopper did, in the terms of the event contract."""

    kind: ActionKind
    unit_id: str
    at: datetime
    product_id: str
    surface: Surface
    query: str
    number: int  # distinguishes visits: part of the event's id
    amount_minor: int = 0
    currency: str = ""


class Request(msgspec.Struct, frozen=True):
    """One shopper asks one surface. `query` is a product id (image), a text (search), or "" (user)."""

    unit_id: str
    surface: Surface
    query: str
    history: tuple[str, ...]


class Shown(msgspec.Struct, frozen=True):
    """The answer: products in order, and for each the query it answers (user surface: the interest's product)."""

    ids: Sequence[str]
    queries: Sequence[str]


Recommend = Callable[[Sequence[Request]], Sequence[Shown]]


class Market:
    """The products and their hidden truth.

    Args:
        looks: `[P, n]` numbers that say what each product looks like (a thumbnail's colours, say). With them looks
            are one more of a product's values, so that there is something to know which no text states.

    Attributes:
        place: `[P, 24]` unit vectors in the taste space.
        appeal: `[P]`, mean 0 and variance 1.
        price_rank: `[P]` from 0, the cheapest, to 1.
    """

    def __init__(self, products: Sequence[ShopProduct], seed: int, looks: FloatArray | None = None) -> None:
        self.products = list(products)
        self.index = {p.id: i for i, p in enumerate(self.products)}
        prices = np.array([p.amount_minor for p in self.products], float)
        tier = np.searchsorted(np.quantile(prices, [0.2, 0.4, 0.6, 0.8]), prices)
        rows, appeal = [], []
        for product, level in zip(self.products, tier, strict=True):
            traits = list(_traits(product, int(level)))
            drawn = [(w, *_draw(seed, f"{kind}:{value}")) for kind, value, w in traits]
            rows.append(sum((w * d for w, d, _ in drawn), np.zeros(_DIM)))
            appeal.append(sum(w * a for w, _, a in drawn))
        if looks is not None:
            rows = list(np.array(rows) + _WEIGHTS["looks"] * _directions(looks, seed))
        centred = np.array(rows) - np.mean(rows, 0)
        self.place: FloatArray = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-9)
        spread = np.std(appeal) or 1.0
        self.appeal: FloatArray = (np.array(appeal) - np.mean(appeal)) / spread
        self.price_rank: FloatArray = np.argsort(np.argsort(prices)) / max(1, len(prices) - 1)

    def phrase(self, product: ShopProduct, rng: np.random.Generator) -> str:
        """Two or three of the product's words, as one types them; empty when it has none."""
        kind = re.split(r"[>/,]", product.text.get("product_type", ""))[-1]
        bag = [*_words(kind), *_words(product.text.get("title", ""))]
        bag += [w for name in ("brand", "color", "material") for w in _words(product.text.get(name, ""))]
        unique = list(dict.fromkeys(bag))
        size = min(len(unique), int(rng.integers(2, 4)))
        return " ".join(unique[i] for i in sorted(rng.permutation(len(unique))[:size]))


class Shoppers:
    """A population that visits in rounds. Deterministic by seed, given what it is shown."""

    def __init__(self, market: Market, count: int, seed: int, prefix: str = "shopper") -> None:
        self.market = market
        self.ids = [f"{prefix}-{i:05d}" for i in range(count)]
        self._rng = np.random.default_rng(seed)
        loves = self._rng.integers(1, 4, count)
        noise = self._rng.normal(size=(count, 3, _DIM)) * 0.12
        anchor = self._rng.integers(0, len(market.products), (count, 3))
        self._loves = _unit(market.place[anchor] + noise)
        self._love_count = loves
        # How often one visits, and how freely one spends: both heavy-tailed, as in real shops.
        self._activity = np.clip(self._rng.lognormal(-0.4, 0.7, count), 0.05, 1.0)
        self._budget = self._rng.beta(2, 2, count)
        self._quantity = 1 + (self._rng.pareto(4.0, count)).astype(int).clip(0, 9)
        self._history: list[list[str]] = [[] for _ in range(count)]
        self._visit = 0

    def round(self, recommend: Recommend, at: datetime, lasts: timedelta) -> list[Action]:
        """One round: who is active visits one surface, is shown what `recommend` answers, and acts."""
        self._visit += 1
        active = np.flatnonzero(self._rng.random(len(self.ids)) < self._activity)
        which = (self._rng.random(len(active)) * self._love_count[active]).astype(int)
        intent = _unit(self._loves[active, which] + self._rng.normal(size=(len(active), _DIM)) * 0.08)
        requests = [self._ask(int(u), t) for u, t in zip(active, intent, strict=True)]
        shown = recommend(requests)
        offset = self._rng.random(len(active)) * lasts.total_seconds()
        actions: list[Action] = []
        for u, want, request, answer, seconds in zip(active, intent, requests, shown, offset, strict=True):
            actions += self._react(int(u), want, request, answer, at + timedelta(seconds=float(seconds)))
        return actions

    def _ask(self, user: int, intent: FloatArray) -> Request:
        """Choose a surface; formulate the query from a product that would please."""
        draw = self._rng.random()
        history = tuple(self._history[user][-12:])
        if history and draw < 0.3:
            return Request(self.ids[user], "user", "", history)
        liking = self.market.place @ intent * 12
        weights = np.exp(liking - liking.max())
        wanted = int(self._rng.choice(len(weights), p=weights / weights.sum()))
        product = self.market.products[wanted]
        if draw >= 0.65 and (
            phrase := self.market.phrase(product, self._rng)
        ):  # a product without a word cannot be searched for
            return Request(self.ids[user], "search", phrase, history)
        return Request(self.ids[user], "image", product.id, history)

    def _react(self, user: int, intent: FloatArray, request: Request, answer: Shown, at: datetime) -> list[Action]:
        market, rng = self.market, self._rng
        patience = rng.geometric(1 - _PATIENCE)
        out: list[Action] = []
        for position, (product_id, query) in enumerate(zip(answer.ids[:_LIST], answer.queries, strict=False)):
            if position >= patience:
                break
            i = market.index.get(product_id)
            if i is None:  # came into the catalogue after the market was made: passed over
                continue
            product = market.products[i]
            utility = 5.0 * float(market.place[i] @ intent) + 0.7 * float(market.appeal[i])
            utility -= 2.0 * max(0.0, float(market.price_rank[i]) - float(self._budget[user]))
            moment = at + timedelta(seconds=4 * position)

            act = partial(_act, request=request, product_id=product_id, query=query, number=self._visit, start=moment)
            out.append(act("impression", 0))
            if rng.random() >= _sigmoid(utility - 4.2):
                continue
            out.append(act("click", 2))
            self._history[user].append(product_id)
            if rng.random() < 0.12 * _sigmoid(utility - 2.5) * 2:
                out.append(act("save", 10))
            if rng.random() >= 0.35 * _sigmoid(utility - 3.0):
                continue
            out.append(act("add_to_cart", 30))
            if rng.random() >= 0.45:
                continue
            value = product.amount_minor * int(self._quantity[user])
            out.append(act("order", 300, amount_minor=value, currency=product.currency))
            if rng.random() < 0.06:
                out.append(act("refund", 86_400, amount_minor=value, currency=product.currency))
        return out


def _act(
    kind: ActionKind,
    seconds: float,
    *,
    request: Request,
    product_id: str,
    query: str,
    number: int,
    start: datetime,
    amount_minor: int = 0,
    currency: str = "",
) -> Action:
    """An action `seconds` after the shopper looked at the product."""
    at = start + timedelta(seconds=seconds)
    return Action(kind, request.unit_id, at, product_id, request.surface, query, number, amount_minor, currency)


def _traits(product: ShopProduct, tier: int) -> list[tuple[str, str, float]]:
    """(kind, value, weight) of everything that shoppers care about."""
    text = product.text
    out = [("tier", str(tier), _WEIGHTS["tier"])]
    kinds = [k.strip().casefold() for k in re.split(r"[>/,]", text.get("product_type", "")) if k.strip()]
    out += [("product_type", k, _WEIGHTS["product_type"] / len(kinds)) for k in kinds]
    for name in ("brand", "color", "material", "pattern"):
        if value := text.get(name, "").strip().casefold():
            out.append((name, value, _WEIGHTS[name]))
    title = sorted(set(_words(text.get("title", ""))))
    out += [("word", w, _WEIGHTS["word"] / len(title) ** 0.5) for w in title]
    return out


def _draw(seed: int, value: str) -> tuple[FloatArray, float]:
    """The hidden direction `[24]` and appeal of an attribute's value."""
    digest = hashlib.sha256(f"{seed}:{value}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    return rng.normal(size=_DIM) / _DIM**0.5, float(rng.normal())


def _directions(looks: FloatArray, seed: int) -> FloatArray:
    """Looks as hidden directions `[P, 24]`, as long on average as those that `_draw` gives an attribute's value."""
    spread = looks.std(0)
    standard = (looks - looks.mean(0)) / np.where(spread > 1e-9, spread, 1.0)
    drawn = standard @ np.random.default_rng([seed, 1]).normal(size=(looks.shape[1], _DIM))
    directions: FloatArray = drawn / np.maximum(np.sqrt((drawn**2).sum(1).mean()), 1e-9)
    return directions


def _words(text: str) -> list[str]:
    return [w for w in re.findall(r"\w+", text.casefold()) if len(w) > 1]


def _unit(x: FloatArray) -> FloatArray:
    unit: FloatArray = x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-9)
    return unit


def _sigmoid(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))

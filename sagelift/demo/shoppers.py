"""Simulated shoppers with hidden tastes. The simulation does not know which recommender answers.

Every value of a product's attributes (type, brand, colour, material, price tier, words of the title) has a hidden
direction in a 24-d taste space and a hidden appeal, both drawn by hash from the seed. A product is the weighted sum of
its values. No recommender sees these numbers.

A shopper has one to three loves, points of the same space. Each visit has an intent near one love. The shopper examines
the shown list from the top with decaying patience. The probability of a click is the logistic function of match, appeal
and price. After a click the shopper may save the product, add it to the cart, order it, and sometimes return it.

So a recommender earns clicks and orders only by better lists. Some attributes show in images and texts (type, colour,
pattern), others only in texts (brand, material) or in the price: a recommender that reads texts and learns from clicks
can beat one that uses images only.

About 2 % of the examined products go into a cart and 0.9 % are ordered, similar to RetailRocket's published totals per
view (2.6 % and 0.84 %).
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
"""Where a list is shown: personal, similar to an image, or search results."""
ActionKind = Literal["impression", "click", "save", "add_to_cart", "order", "refund"]
FloatArray = np.ndarray[Any, np.dtype[np.floating[Any]]]

_DIM = 24
_PATIENCE = 0.85  # probability of examining the next product of a list
_LIST = 10
_WEIGHTS = {
    **{"product_type": 1.2, "brand": 0.6, "color": 0.6, "material": 0.5, "pattern": 0.35, "tier": 0.5, "word": 0.5},
    "looks": 0.9,
}


class ShopProduct(msgspec.Struct, frozen=True):
    """A product as shoppers see it.

    Attributes:
        id: Product id.
        text: Text fields by name.
        amount_minor: Price in minor units of the currency.
        currency: ISO 4217 code.
    """

    id: str
    text: Mapping[str, str]
    amount_minor: int
    currency: str


class Action(msgspec.Struct, frozen=True):
    """One action of one shopper, in the terms of the event contract.

    Attributes:
        kind: What the shopper did.
        unit_id: The shopper.
        at: Time of the action.
        product_id: The product.
        surface: Where the product was shown.
        query: The query that the list answered.
        number: Number of the visit; part of the event's id.
        amount_minor: Amount of an order or refund in minor units of the currency.
        currency: ISO 4217 code of the amount.
    """

    kind: ActionKind
    unit_id: str
    at: datetime
    product_id: str
    surface: Surface
    query: str
    number: int
    amount_minor: int = 0
    currency: str = ""


class Request(msgspec.Struct, frozen=True):
    """One shopper's request to one surface.

    Attributes:
        unit_id: The shopper.
        surface: The surface.
        query: A product id (image), a text (search) or "" (user).
        history: Ids of the products that the shopper clicked last, oldest first.
    """

    unit_id: str
    surface: Surface
    query: str
    history: tuple[str, ...]


class Shown(msgspec.Struct, frozen=True):
    """The answer to a request: ranked product ids, and for each the query that it answers.

    On the user surface the query is the product of the interest.
    """

    ids: Sequence[str]
    queries: Sequence[str]


Recommend = Callable[[Sequence[Request]], Sequence[Shown]]
"""Answers a batch of requests."""


class Market:
    """The products and their hidden properties.

    Args:
        products: The products.
        seed: Random seed of the hidden properties.
        looks: `[P, n]` numbers that describe what each product looks like, such as a thumbnail's colours. They become
            one more value of the product, which no text states.

    Attributes:
        products: The products.
        index: Row of each product, by id.
        place: Unit vectors in the taste space, `[P, 24]`.
        appeal: Appeal, `[P]`, with mean 0 and variance 1.
        price_rank: Rank by price, `[P]`, from 0 (cheapest) to 1.
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
        """Return two or three words of the product as a search text; "" if it has none."""
        kind = re.split(r"[>/,]", product.text.get("product_type", ""))[-1]
        bag = [*_words(kind), *_words(product.text.get("title", ""))]
        bag += [w for name in ("brand", "color", "material") for w in _words(product.text.get(name, ""))]
        unique = list(dict.fromkeys(bag))
        size = min(len(unique), int(rng.integers(2, 4)))
        return " ".join(unique[i] for i in sorted(rng.permutation(len(unique))[:size]))


class Shoppers:
    """A population that visits in rounds. The seed and the shown lists decide all actions.

    Args:
        market: The products.
        count: Number of shoppers.
        seed: Random seed.
        prefix: Prefix of the shoppers' ids.

    Attributes:
        market: The products.
        ids: Ids of the shoppers.
    """

    def __init__(self, market: Market, count: int, seed: int, prefix: str = "shopper") -> None:
        self.market = market
        self.ids = [f"{prefix}-{i:05d}" for i in range(count)]
        self._rng = np.random.default_rng(seed)
        loves = self._rng.integers(1, 4, count)
        noise = self._rng.normal(size=(count, 3, _DIM)) * 0.12
        anchor = self._rng.integers(0, len(market.products), (count, 3))
        self._loves = _unit(market.place[anchor] + noise)
        self._love_count = loves
        # How often a shopper visits and how much one buys: both heavy-tailed, as in real shops.
        self._activity = np.clip(self._rng.lognormal(-0.4, 0.7, count), 0.05, 1.0)
        self._budget = self._rng.beta(2, 2, count)
        self._quantity = 1 + (self._rng.pareto(4.0, count)).astype(int).clip(0, 9)
        self._history: list[list[str]] = [[] for _ in range(count)]
        self._visit = 0

    def round(self, recommend: Recommend, at: datetime, lasts: timedelta) -> list[Action]:
        """Run one round: each active shopper visits one surface, sees a list and acts.

        Args:
            recommend: Answers the requests.
            at: Start of the round.
            lasts: Length of the round; visits start at random times in it.

        Returns:
            The actions, grouped by shopper.
        """
        self._visit += 1
        active = np.flatnonzero(self._rng.random(len(self.ids)) < self._activity)
        which = (self._rng.random(len(active)) * self._love_count[active]).astype(int)
        intent = _unit(self._loves[active, which] + self._rng.normal(size=(len(active), _DIM)) * 0.08)
        requests = [self._ask(int(u), t) for u, t in zip(active, intent, strict=True)]
        shown = recommend(requests)
        offset = self._rng.random(len(active)) * lasts.total_seconds()
        actions: list[Action] = []
        for user, wish, request, answer, seconds in zip(active, intent, requests, shown, offset, strict=True):
            actions += self._react(int(user), wish, request, answer, at + timedelta(seconds=float(seconds)))
        return actions

    def _ask(self, user: int, intent: FloatArray) -> Request:
        """Choose a surface and a query from a product that matches the intent."""
        draw = self._rng.random()
        history = tuple(self._history[user][-12:])
        if history and draw < 0.3:
            return Request(self.ids[user], "user", "", history)
        liking = self.market.place @ intent * 12
        weights = np.exp(liking - liking.max())
        target = int(self._rng.choice(len(weights), p=weights / weights.sum()))
        product = self.market.products[target]
        # A product without words cannot be searched for.
        if draw >= 0.65 and (phrase := self.market.phrase(product, self._rng)):
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
            if i is None:  # joined the catalogue after the market was made
                continue
            product = market.products[i]
            utility = 5.0 * float(market.place[i] @ intent) + 0.7 * float(market.appeal[i])
            utility -= 2.0 * max(0.0, float(market.price_rank[i]) - float(self._budget[user]))
            start = at + timedelta(seconds=4 * position)
            act = partial(_act, request=request, product_id=product_id, query=query, number=self._visit, start=start)
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
    """Return an action `seconds` after the shopper examined the product."""
    at = start + timedelta(seconds=seconds)
    return Action(kind, request.unit_id, at, product_id, request.surface, query, number, amount_minor, currency)


def _traits(product: ShopProduct, tier: int) -> list[tuple[str, str, float]]:
    """Return (kind, value, weight) of all attributes that matter to shoppers."""
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
    """Return the hidden direction `[24]` and the appeal of an attribute's value."""
    digest = hashlib.sha256(f"{seed}:{value}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    return rng.normal(size=_DIM) / _DIM**0.5, float(rng.normal())


def _directions(looks: FloatArray, seed: int) -> FloatArray:
    """Return looks as hidden directions `[P, 24]`, on average as long as those of `_draw`."""
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

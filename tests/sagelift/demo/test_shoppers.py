"""The shoppers are deterministic, do not know the recommender, and engage more with better lists."""

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import numpy as np

from sagelift.demo.shoppers import Action, Market, Recommend, Request, Shoppers, ShopProduct, Shown

START = datetime(2026, 1, 5, tzinfo=UTC)
DAY = timedelta(days=1)


def visit(market: Market, recommend: Recommend, *, rounds: int = 6, count: int = 400, seed: int = 5) -> list[Action]:
    shoppers = Shoppers(market, count, seed)
    return [a for day in range(rounds) for a in shoppers.round(recommend, START + day * DAY, DAY)]


def same_for_all(ids: Sequence[str]) -> Recommend:
    return lambda requests: [Shown(ids, [r.query or r.history[-1] for _ in ids]) for r in requests]


def by_truth(market: Market, best: bool) -> Recommend:
    """Recommend the products nearest to the query in the hidden space, or the farthest ones."""

    def answer(requests: Sequence[Request]) -> list[Shown]:
        out = []
        for request in requests:
            asked = request.query if request.query in market.index else (request.history or ("p0",))[-1]
            closeness = market.place @ market.place[market.index[asked]]
            order = np.argsort(-closeness if best else closeness)[:10]
            out.append(Shown([market.products[i].id for i in order], [asked] * 10))
        return out

    return answer


def test_the_same_seed_acts_the_same(market: Market) -> None:
    recommend = same_for_all([f"p{i}" for i in range(10)])
    assert visit(market, recommend, rounds=2) == visit(market, recommend, rounds=2)


def test_another_seed_acts_differently(market: Market) -> None:
    recommend = same_for_all([f"p{i}" for i in range(10)])
    assert visit(market, recommend, rounds=2) != visit(market, recommend, rounds=2, seed=6)


def test_better_lists_earn_more_clicks_and_orders(market: Market) -> None:
    good, bad = (Counter(a.kind for a in visit(market, by_truth(market, best))) for best in (True, False))
    assert good["click"] > 2 * bad["click"]
    assert good["order"] > bad["order"]


def test_a_product_without_words_is_never_searched_for() -> None:
    wordless = [ShopProduct(f"p{i}", {"title": "X"}, 100 + i, "EUR") for i in range(30)]
    market = Market(wordless, seed=3)

    def answer(requests: Sequence[Request]) -> list[Shown]:
        assert all(r.surface != "search" for r in requests)
        return [Shown(["p1", "p2"], ["p3", "p3"]) for _ in requests]

    assert visit(market, answer, rounds=2)


def test_products_unknown_to_the_market_are_ignored(market: Market) -> None:
    actions = visit(market, same_for_all(["new-product", "p1"]), rounds=1)
    assert {a.product_id for a in actions} == {"p1"}


def test_every_action_has_an_earlier_cause(market: Market) -> None:
    """Each click has an impression, each order a cart, each refund an order, and each is later than its cause."""
    cause = {
        "click": "impression",
        "save": "click",
        "add_to_cart": "click",
        "order": "add_to_cart",
        "refund": "order",
    }
    seen = {}
    for action in visit(market, by_truth(market, best=True), rounds=8):
        key = (action.unit_id, action.number, action.product_id)
        seen[(*key, action.kind)] = action.at
        if before := cause.get(action.kind):
            assert seen[(*key, before)] < action.at


def test_an_order_costs_the_products_price_times_a_quantity(market: Market) -> None:
    orders = [a for a in visit(market, by_truth(market, best=True)) if a.kind == "order"]
    assert orders
    for order in orders:
        price = market.products[market.index[order.product_id]].amount_minor
        assert order.amount_minor % price == 0
        assert order.currency == "EUR"


def test_shoppers_see_the_top_of_a_list_most(market: Market) -> None:
    ids = [f"p{i}" for i in range(10)]
    seen = Counter(a.product_id for a in visit(market, same_for_all(ids)) if a.kind == "impression")
    counts = [seen[i] for i in ids]
    assert counts == sorted(counts, reverse=True)
    assert counts[9] < 0.5 * counts[0]


def test_the_hidden_truth_does_not_depend_on_the_order_of_products(market: Market) -> None:
    """A product has the same place in a reversed catalogue."""
    turned = Market(list(reversed(market.products)), seed=3)
    for i in (0, 17, 119):
        j = turned.index[market.products[i].id]
        np.testing.assert_allclose(market.place[i], turned.place[j], atol=1e-12)


def all_surfaces(market: Market) -> Callable[[Sequence[Request]], list[Shown]]:
    surfaces: Counter[str] = Counter()

    def answer(requests: Sequence[Request]) -> list[Shown]:
        surfaces.update(r.surface for r in requests)
        assert all(r.query in market.index for r in requests if r.surface == "image")
        assert all(r.history for r in requests if r.surface == "user")
        return by_truth(market, best=True)(requests)

    answer.surfaces = surfaces  # type: ignore[attr-defined]
    return answer


def test_all_three_surfaces_are_asked(market: Market) -> None:
    recommend = all_surfaces(market)
    visit(market, recommend)
    assert set(recommend.surfaces) == {"user", "image", "search"}  # type: ignore[attr-defined]

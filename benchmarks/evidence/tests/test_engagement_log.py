"""The simulated log is deterministic, unbiased by any shop, and has the stated funnel."""

from collections import Counter

import numpy as np
import pytest

from benchmarks.evidence.engagement_log import ceiling, simulate_log
from inference.errors import InputError
from sagelift.demo.shoppers import Market, ShopProduct


@pytest.fixture(scope="module")
def shop() -> Market:
    kinds = ("lamp", "tent", "mug", "boot")
    return Market(
        [
            ShopProduct(f"p{i}", {"title": f"{kinds[i % 4]} {i}", "product_type": kinds[i % 4]}, 500 + 40 * i, "EUR")
            for i in range(80)
        ],
        seed=3,
    )


def test_the_same_seed_gives_the_same_log_and_another_gives_another(shop: Market) -> None:
    assert simulate_log(shop, 500, 1) == simulate_log(shop, 500, 1)
    assert simulate_log(shop, 500, 1) != simulate_log(shop, 500, 2)


def test_the_funnel_has_the_stated_shares_of_clicks(shop: Market) -> None:
    counts: Counter[str] = Counter()
    for e in simulate_log(shop, 20_000, 1):
        counts[e.action] += e.count
    assert counts["click"] == 4 * 20_000
    for action, share in (("save", 0.05), ("add_to_cart", 0.026), ("checkout", 0.0084)):
        assert counts[action] / counts["click"] == pytest.approx(share, rel=0.1)


def test_no_image_query_leads_to_itself_and_both_surfaces_are_there(shop: Market) -> None:
    log = simulate_log(shop, 2_000, 1)
    assert {e.kind for e in log} == {"image", "search"}
    assert all(e.query != e.product_id for e in log if e.kind == "image")
    assert all(e.query and e.query not in shop.index for e in log if e.kind == "search")


def test_shoppers_engage_with_products_near_the_query(shop: Market) -> None:
    log = [e for e in simulate_log(shop, 4_000, 1) if e.kind == "image"]
    close = [float(shop.place[shop.index[e.query]] @ shop.place[shop.index[e.product_id]]) for e in log]
    weights = [e.count for e in log]
    assert np.average(close, weights=weights) > 0.3, "by chance 0"


def test_the_ceiling_ranks_engaged_products_before_others(shop: Market) -> None:
    log = simulate_log(shop, 4_000, 1)
    queries = sorted({(e.kind, e.query) for e in log})
    products, asked = ceiling(shop, log, queries)
    assert products.shape == (80, 25)
    assert asked.shape == (len(queries), 25)
    scores = asked @ products.T
    row = {query: i for i, query in enumerate(queries)}
    engaged = np.mean([scores[row[e.kind, e.query], shop.index[e.product_id]] for e in log])
    assert engaged > scores.mean() + scores.std()


def test_looks_matter_only_where_they_are_given(shop: Market) -> None:
    looks = np.repeat(np.eye(4), 20, axis=0)
    seen = Market(shop.products, 3, looks)
    alike = [float(seen.place[i] @ seen.place[i + 4]) for i in range(0, 12)]  # same kind, same look
    unlike = [float(seen.place[i] @ seen.place[i + 40]) for i in range(0, 12)]  # same kind, another look
    assert np.mean(alike) > np.mean(unlike) + 0.1


def test_too_few_products_make_no_log(shop: Market) -> None:
    with pytest.raises(InputError, match="at least 20 products"):
        simulate_log(Market(shop.products[:5], 3), 10, 1)

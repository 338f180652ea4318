"""The demo's changes have a fixed mix, and the seed decides them."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

from feature_repo.rows import ProductFeatures
from sagelift.demo.freshness import Changes

NOW = datetime(2026, 1, 5, tzinfo=UTC)
PRODUCTS = [
    ProductFeatures(
        id=f"p{n}", version=1, event_time=NOW, text={"title": f"Chair {n}"}, amount_minor=100, currency="EUR"
    )
    for n in range(5)
]


def kind(change: object) -> str:
    op, title = change.op, change.title  # type: ignore[attr-defined]
    if op == "delete":
        return "delete"
    if op == "upsert":
        return "new"
    if isinstance(title, str):
        return "bad" if "\x00" in title else "title"
    return "price"


def test_twenty_changes_have_the_documented_mix() -> None:
    changes = Changes(PRODUCTS, seed=1)
    kinds = Counter(kind(changes.update(number, NOW)) for number in range(20))
    assert kinds == {"title": 10, "price": 6, "new": 2, "delete": 1, "bad": 1}


def test_only_products_with_a_price_change_if_there_are_any() -> None:
    without_price = ProductFeatures(id="free", version=1, event_time=NOW, text={"title": "Chair"})
    changes = Changes([without_price, *PRODUCTS], seed=1)
    changed = {changes.update(number, NOW).id for number in range(100)}
    assert "free" not in changed


def test_the_seed_decides_the_changes_and_versions_grow() -> None:
    one, two = Changes(PRODUCTS, seed=1), Changes(PRODUCTS, seed=1)
    first = [one.update(number, NOW) for number in range(20)]
    assert first == [two.update(number, NOW) for number in range(20)]
    versions = [change.version for change in first]
    assert versions == sorted(set(versions))

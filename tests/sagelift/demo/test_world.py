"""Which catalogues the demo's shoppers accept."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from feature_repo.rows import ProductFeatures
from sagelift.demo.world import priced_products
from sagelift.errors import DemoError


def features(count: int, currency: str = "EUR", first: int = 0) -> dict[str, ProductFeatures]:
    now = datetime(2026, 1, 5, tzinfo=UTC)
    return {
        f"p{n}": ProductFeatures(id=f"p{n}", version=1, event_time=now, amount_minor=100 + n, currency=currency)
        for n in range(first, first + count)
    }


def test_products_without_a_price_are_left_out() -> None:
    now = datetime(2026, 1, 5, tzinfo=UTC)
    products = priced_products(features(20) | {"free": ProductFeatures(id="free", version=1, event_time=now)})
    assert [p.id for p in products] == [f"p{n}" for n in range(20)]
    assert products[3].amount_minor == 103


def test_too_few_products_are_refused() -> None:
    with pytest.raises(DemoError, match="has 19 products with a price; the demo's shoppers need at least 20"):
        priced_products(features(19))


def test_two_currencies_are_refused() -> None:
    with pytest.raises(DemoError, match="has prices in EUR, USD"):
        priced_products(features(15) | features(15, "USD", first=15))

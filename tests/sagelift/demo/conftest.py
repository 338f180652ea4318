"""A small market for the tests of the shoppers and the shops."""

import pytest

from sagelift.demo.shoppers import Market, ShopProduct

KINDS = ("chair", "lamp", "mug", "boot", "rug", "watch")
BRANDS = ("Aro", "Bel", "Cor", "Dun")
COLOURS = ("red", "green", "blue", "grey", "white")


def product(number: int) -> ShopProduct:
    kind, brand, colour = KINDS[number % 6], BRANDS[number // 6 % 4], COLOURS[number % 5]
    text = {"title": f"{brand} {colour} {kind} {number}", "product_type": f"Home > {kind}", "brand": brand}
    return ShopProduct(f"p{number}", text | {"color": colour}, 500 + 137 * number % 9000, "EUR")


@pytest.fixture
def market() -> Market:
    return Market([product(n) for n in range(120)], seed=3)

"""Pairs: which engagements count, and their split."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from inference.errors import InputError
from inference.inputs import ProductInput
from inference.tokenizer import Tokenizer
from inference.training.engagements import Engagement
from inference.training.packed import PackedProducts
from inference.training.pairs import Pairs
from tests.inference.builders import catalogue, engagements


@pytest.fixture(scope="module")
def packed() -> PackedProducts:
    """The catalogue and a product without images."""
    products = [*catalogue(2), ProductInput("bare", {}, np.zeros((0, 256), np.float32))]
    return PackedProducts(products, Tokenizer.fit([p.text for p in products]))


def test_engagements_without_a_usable_query_or_product_are_left_out(packed: PackedProducts) -> None:
    good = [Engagement("image", "lamp-0", "lamp-1", "click"), Engagement("search", "red", "bare", "save")]
    useless = [
        Engagement("image", "lamp-0", "lamp-0", "click"),  # of itself
        Engagement("image", "bare", "lamp-0", "click"),  # the query has no image
        Engagement("image", "gone", "lamp-0", "click"),
        Engagement("search", "red", "gone", "click"),
    ]
    pairs = Pairs([*useless, *good], packed, 0.0)
    assert pairs.queries == [("image", "lamp-0"), ("search", "red")]
    assert pairs.query.tolist() == [0, 1]
    assert [packed.ids[p] for p in pairs.product] == ["lamp-1", "bare"]
    assert [pairs.tasks[t] for t in pairs.task] == ["image/click", "search/save"]
    assert pairs.query_product.tolist() == [packed.index["lamp-0"], -1]
    with pytest.raises(InputError, match="none of the 4 engagements"):
        Pairs(useless, packed)


@pytest.mark.parametrize("change", [{"action": "stare"}, {"kind": "smell"}, {"count": 0}, {"count": -2}])
def test_an_invalid_engagement_is_named(packed: PackedProducts, change: dict[str, object]) -> None:
    good = Engagement("search", "red", "bare", "save")
    with pytest.raises(InputError, match=f"{next(iter(change.values()))!r}.* is not a valid engagement"):
        Pairs([good, msgspec.structs.replace(good, **change)], packed)


def test_the_split_is_by_pair_stable_and_has_the_given_share() -> None:
    products, log = catalogue(40), engagements(40)
    packed = PackedProducts(products, Tokenizer.fit([p.text for p in products]))
    log += [msgspec.structs.replace(e, action="add_to_cart") for e in log]
    pairs = Pairs(log, packed, 0.2)
    assert 0.15 < pairs.held_out.mean() < 0.25
    side: dict[tuple[int, int], set[bool]] = {}
    for query, product, held in zip(pairs.query, pairs.product, pairs.held_out, strict=True):
        side.setdefault((int(query), int(product)), set()).add(bool(held))
    assert all(len(sides) == 1 for sides in side.values())
    again = Pairs(log[::-1], packed, 0.2)
    assert again.held_out.tolist() == pairs.held_out.tolist()[::-1]
    np.testing.assert_array_equal(pairs.training, np.flatnonzero(~pairs.held_out))


def test_too_few_pairs_to_split_are_all_for_training(packed: PackedProducts) -> None:
    pairs = Pairs([Engagement("search", "red", "bare", "save")], packed, 1.0)
    assert pairs.training.tolist() == [0]

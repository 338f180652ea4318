"""Recall@k and coverage against a brute force that follows the definition word by word."""

from __future__ import annotations

import numpy as np
import pytest

from inference.errors import InputError
from inference.tokenizer import Tokenizer
from inference.training.engagements import Engagement
from inference.training.evaluation import Evaluation, evaluate
from inference.training.packed import PackedProducts
from inference.training.pairs import Pairs
from tests.inference.builders import catalogue, engagements, unit


@pytest.fixture(scope="module")
def packed() -> PackedProducts:
    products = catalogue()
    return PackedProducts(products, Tokenizer.fit([p.text for p in products]))


def slow(products: np.ndarray, queries: np.ndarray, pairs: Pairs, k: int) -> Evaluation:
    hits: dict[str, list[float]] = {}
    retrieved: set[int] = set()
    for row in np.flatnonzero(pairs.held_out):
        kind, _ = pairs.queries[pairs.query[row]]
        scores = {p: float(queries[pairs.query[row]] @ products[p]) for p in range(len(products))}
        if kind == "image":
            del scores[pairs.query_product[pairs.query[row]]]
        target = int(pairs.product[row])
        above = sum(score >= scores[target] for p, score in scores.items() if p != target)
        hits.setdefault(pairs.tasks[pairs.task[row]], []).extend([above < k] * int(pairs.count[row]))
        if queries[pairs.query[row]].any():
            retrieved |= set(sorted(scores, key=lambda p: -scores[p])[:k])
    recall = {task: float(np.mean(result)) for task, result in hits.items()}
    return Evaluation(recall, {}, float(np.mean(list(recall.values()))), len(retrieved) / len(products))


@pytest.mark.parametrize("k", [1, 10, 59])
def test_it_is_the_brute_force(packed: PackedProducts, k: int) -> None:
    rng = np.random.default_rng(0)
    pairs = Pairs(engagements(), packed, 0.5)
    products, queries = unit(rng, len(packed)), unit(rng, len(pairs.queries))
    queries[2] = 0.0  # a search without a known word
    expected = slow(products, queries, pairs, k)
    got = evaluate(products, queries, pairs, k=k)
    assert got.recall == pytest.approx(expected.recall)
    assert got.mean_recall == pytest.approx(expected.mean_recall)
    assert got.coverage == pytest.approx(expected.coverage)
    assert sum(got.pairs.values()) == pairs.held_out.sum()


def one_pair(packed: PackedProducts, engagement: Engagement) -> Pairs:
    pairs = Pairs([engagement], packed)
    pairs.held_out[:] = True
    return pairs


def test_ties_count_against_the_product(packed: PackedProducts) -> None:
    """Otherwise a model with equal scores for all products would seem perfect."""
    pairs = one_pair(packed, Engagement("search", "lamp", "lamp-3", "click"))
    query = np.zeros((1, 256), np.float32)
    query[0, 0] = 1.0
    products = np.zeros((60, 256), np.float32)
    products[:, 0] = 0.5
    assert evaluate(products, query, pairs).mean_recall == 0.0
    target = packed.index["lamp-3"]
    products[:, 0] = 0.1
    products[[target, *(i for i in range(10, 19))], 0] = 0.9  # nine others score the same
    assert evaluate(products, query, pairs).mean_recall == 1.0
    products[20, 0] = 0.9  # a tenth
    assert evaluate(products, query, pairs).mean_recall == 0.0


def test_a_zero_query_has_no_results(packed: PackedProducts) -> None:
    pairs = one_pair(packed, Engagement("search", "xyzzy", "lamp-3", "click"))
    result = evaluate(unit(np.random.default_rng(0), 60), np.zeros((1, 256), np.float32), pairs)
    assert (result.mean_recall, result.coverage) == (0.0, 0.0)


def test_the_product_whose_image_is_the_query_is_no_distractor(packed: PackedProducts) -> None:
    pairs = one_pair(packed, Engagement("image", "lamp-0", "lamp-1", "click"))
    products = unit(np.random.default_rng(0), 60)
    query = products[[packed.index["lamp-0"]]]
    products[packed.index["lamp-1"]] = query[0] * 0.99
    assert evaluate(products, query, pairs, k=1).mean_recall == 1.0


def test_pairs_weigh_by_their_engagements(packed: PackedProducts) -> None:
    log = [
        Engagement("search", "lamp", "lamp-0", "click", count=9),
        Engagement("search", "lamp", "boots-0", "click", count=1),
    ]
    pairs = Pairs(log, packed)
    pairs.held_out[:] = True
    products = unit(np.random.default_rng(0), 60)
    assert evaluate(products, products[[packed.index["lamp-0"]]], pairs, k=1).recall == {"search/click": 0.9}


def test_without_held_out_pairs_there_is_no_recall(packed: PackedProducts) -> None:
    pairs = Pairs([Engagement("search", "lamp", "lamp-3", "click")], packed, 0.0)
    result = evaluate(unit(np.random.default_rng(0), 60), np.zeros((1, 256), np.float32), pairs)
    assert (result.recall, result.mean_recall, result.coverage) == ({}, 0.0, 0.0)


@pytest.mark.parametrize("where", ["products", "queries"])
def test_a_model_that_answers_nan_is_not_scored(packed: PackedProducts, where: str) -> None:
    """NaN compares as lower than everything: unchecked it would count as found."""
    pairs = one_pair(packed, Engagement("search", "lamp", "lamp-3", "click"))
    vectors = {"products": np.ones((60, 256), np.float32), "queries": np.ones((1, 256), np.float32)}
    vectors[where][0, 5] = np.nan
    with pytest.raises(InputError, match="NaN or infinity"):
        evaluate(vectors["products"], vectors["queries"], pairs)

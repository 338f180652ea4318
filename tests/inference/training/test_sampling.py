"""The sampler: quotas, frequencies and corrections, masks, and its state."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from inference.errors import InputError
from inference.tokenizer import Tokenizer
from inference.training.config import TrainConfig
from inference.training.engagements import TASKS, Engagement
from inference.training.packed import PackedProducts
from inference.training.pairs import Pairs
from inference.training.sampling import PairSampler, TrainingBatch
from tests.inference.builders import catalogue, engagements

SMALL = TrainConfig(batch=96, random_negatives=64)


def sampler_of(log: list[Engagement], held_out: float = 0.0, **changes: Any) -> tuple[PairSampler, Pairs, int]:
    products = catalogue()
    packed = PackedProducts(products, Tokenizer.fit([p.text for p in products]))
    config = msgspec.structs.replace(SMALL, **changes)
    pairs = Pairs(log, packed, held_out, config.task_names)
    return PairSampler(pairs, len(packed), config, np.random.default_rng(0)), pairs, len(packed)


LOG = [
    Engagement("image", "lamp-0", "lamp-1", "click", count=6),
    Engagement("image", "lamp-0", "lamp-2", "click", count=2),
    Engagement("image", "boots-0", "lamp-1", "click", count=2),
    Engagement("image", "lamp-0", "lamp-2", "checkout", count=50),
    Engagement("search", "tent", "tent-1", "save", count=1),
    Engagement("search", "tent", "tent-2", "save", count=3),
]


def one_product_a_task(tasks: int) -> list[Engagement]:
    split = [task.split("/") for task in TASKS[:tasks]]
    return [Engagement(kind, "lamp-0", f"tent-{i}", action, 1 + 9 * i) for i, (kind, action) in enumerate(split)]  # type: ignore[arg-type]


def drawn_tasks(sampler: PairSampler, pairs: Pairs) -> Counter[str]:
    task_of = dict(zip(pairs.product.tolist(), pairs.task.tolist(), strict=True))
    return Counter(pairs.tasks[task_of[p]] for p in sampler.draw().product.tolist())


def mask_of(batch: TrainingBatch) -> np.ndarray:
    mask = np.zeros((len(batch.query), len(batch.products)), bool)
    mask[batch.candidates.masked_query, batch.candidates.masked_product] = True
    return mask


# ------------------------------------------------------------------------------------------------------------ quotas


def test_tasks_share_every_batch_by_the_square_root_of_their_engagements() -> None:
    """Sixteen times the engagements are four times the share. A task without any leaves its share to the others."""
    log = [
        Engagement("image", "lamp-0", "lamp-1", "click", count=36),
        Engagement("image", "lamp-0", "lamp-2", "checkout", count=64),
        Engagement("search", "tent", "tent-1", "save", count=4),
    ]
    sampler, pairs, _ = sampler_of(log)
    for _ in range(3):
        assert drawn_tasks(sampler, pairs) == {"image/click": 36, "image/checkout": 48, "search/save": 12}


def test_shares_are_configuration_and_zero_is_not_trained() -> None:
    shares = dict.fromkeys(TASKS, 0.0) | {"image/click": 3.0, "search/checkout": 1.0}
    sampler, pairs, _ = sampler_of(one_product_a_task(8), tasks=shares)
    assert drawn_tasks(sampler, pairs) == {"image/click": 72, "search/checkout": 24}


def test_a_rare_task_is_in_every_batch_and_the_batch_is_always_full() -> None:
    shares = dict.fromkeys(TASKS, 0.001) | {"image/click": 7.0, "image/save": 3.0}
    sampler, pairs, _ = sampler_of(one_product_a_task(8), tasks=shares, batch=50)
    drawn = drawn_tasks(sampler, pairs)
    assert drawn == dict.fromkeys(TASKS, 1) | {"image/click": drawn["image/click"], "image/save": drawn["image/save"]}
    assert drawn.total() == 50
    assert drawn["image/click"] > 2 * drawn["image/save"] - 5


def test_a_new_task_is_one_line_of_configuration() -> None:
    log = [*LOG, Engagement("search", "tent", "drill-1", "subscribe")]
    shares = dict.fromkeys(TASKS, 0.0) | {"image/click": 1.0, "search/subscribe": 1.0}
    sampler, pairs, _ = sampler_of(log, tasks=shares)
    subscribed = pairs.product[[pairs.tasks[t] == "search/subscribe" for t in pairs.task]]
    assert (np.isin(sampler.draw().product, subscribed)).sum() == 48


def test_a_task_without_pairs_and_a_batch_that_is_too_small_are_named() -> None:
    with pytest.raises(InputError, match="task 'search/checkout' has no pair to train on"):
        sampler_of(LOG, tasks={**dict.fromkeys(TASKS, 0.0), "search/checkout": 1.0})
    with pytest.raises(InputError, match=r"batch \(2\) must be at least the number of tasks \(3\)"):
        sampler_of(LOG, batch=2)


def test_within_a_task_pairs_are_drawn_by_their_counts() -> None:
    even = {**dict.fromkeys(TASKS, 0.0), "image/click": 1.0, "image/checkout": 1.0, "search/save": 1.0}
    sampler, pairs, _ = sampler_of(LOG, batch=3000, tasks=even)
    drawn: Counter[tuple[int, int]] = Counter()
    for _ in range(10):
        batch = sampler.draw()
        drawn.update(zip(batch.query[:1000].tolist(), batch.product[:1000].tolist(), strict=True))  # image/click
    for row, share in ((0, 0.6), (1, 0.2), (2, 0.2)):
        assert drawn[int(pairs.query[row]), int(pairs.product[row])] / 10_000 == pytest.approx(share, abs=0.02)


# ------------------------------------------------------------------------------------------------------- corrections


def frequencies(sampler: PairSampler, batches: int = 20) -> tuple[Counter[Any], Counter[Any], Counter[Any]]:
    products, queries, joint = Counter[Any](), Counter[Any](), Counter[Any]()
    for _ in range(batches):
        batch = sampler.draw()
        products.update(batch.product.tolist())
        queries.update(batch.query.tolist())
        joint.update(zip(batch.query.tolist(), batch.product.tolist(), strict=True))
    return products, queries, joint


def test_the_positive_is_corrected_by_its_share_of_its_query() -> None:
    sampler, _, _ = sampler_of(LOG, batch=3000)
    _, queries, joint = frequencies(sampler)
    batch = sampler.draw()
    for row in range(0, 3000, 37):
        query, product = int(batch.query[row]), int(batch.product[row])
        expected = math.log(joint[query, product] / queries[query])
        assert batch.candidates.positive_log_q[row].item() == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("loss", ["separate", "shared", "in_batch", "random"])
def test_weights_are_log_times_drawn_less_log_times_expected(loss: str) -> None:
    sampler, _, size = sampler_of(LOG, batch=3000, random_negatives=90, loss=loss)
    products, _, _ = frequencies(sampler)
    batch = sampler.draw()
    paired, random = (np.bincount(drawn, minlength=size) for drawn in (batch.product, batch.negatives))
    expected_paired, expected_random = {p: products[p] / 20 for p in range(size)}, 90 / size
    weights = [w.tolist() for w in batch.candidates.weights]
    own = len(set(batch.product.tolist()))
    assert [len(w) for w in weights] == {
        "separate": [own, len(batch.products)],
        "shared": [len(batch.products)],
        "in_batch": [own],
        "random": [len(batch.products)],
    }[loss]
    for place, product in enumerate(batch.products.tolist()):
        if loss in ("separate", "in_batch") and place < own:
            expected = math.log(paired[product] / expected_paired[product])
            assert weights[0][place] == pytest.approx(expected, abs=0.1)
        if loss in ("separate", "random"):
            expected = math.log(random[product] / expected_random) if random[product] else -math.inf
            assert weights[-1][place] == pytest.approx(expected, abs=0.1)
        if loss == "shared":
            both = math.log((paired[product] + random[product]) / (expected_paired[product] + expected_random))
            assert weights[0][place] == pytest.approx(both, abs=0.1)


def test_without_log_q_only_the_multiplicity_counts() -> None:
    sampler, _, size = sampler_of(LOG, batch=3000, random_negatives=90, log_q=False)
    batch = sampler.draw()
    paired, random = (np.bincount(drawn, minlength=size) for drawn in (batch.product, batch.negatives))
    assert not batch.candidates.positive_log_q.any()
    with np.errstate(divide="ignore"):
        for weight, times in zip(batch.candidates.weights, (paired, random), strict=True):
            np.testing.assert_allclose(weight, np.log(times[batch.products[: len(weight)]]), rtol=1e-6)


def test_random_negatives_come_evenly_from_the_whole_catalogue() -> None:
    sampler, _, size = sampler_of(LOG, random_negatives=6000)
    drawn = np.bincount(sampler.draw().negatives, minlength=size)
    assert len(drawn) == size
    assert drawn.min() > 60
    assert drawn.max() < 140


# ------------------------------------------------------------------------------------------------ products and masks


def test_products_are_the_distinct_ones_with_those_of_the_pairs_in_front() -> None:
    sampler, _, _ = sampler_of(engagements(), random_negatives=20)
    for _ in range(5):
        batch = sampler.draw()
        own = len(set(batch.product.tolist()))
        assert set(batch.products[:own].tolist()) == set(batch.product.tolist())
        assert sorted(batch.products.tolist()) == sorted({*batch.product.tolist(), *batch.negatives.tolist()})
        np.testing.assert_array_equal(batch.products[batch.candidates.positive], batch.product)


def test_masks_cover_the_engaged_products_and_the_product_whose_image_is_the_query() -> None:
    sampler, pairs, _ = sampler_of(LOG, batch=30, random_negatives=300)
    engaged = set(zip(pairs.query.tolist(), pairs.product.tolist(), strict=True))
    batch = sampler.draw()
    expected = [
        [(q, p) in engaged or p == pairs.query_product[q] for p in batch.products.tolist()]
        for q in batch.query.tolist()
    ]
    np.testing.assert_array_equal(mask_of(batch), expected)
    assert mask_of(batch)[np.arange(30), batch.candidates.positive].all()
    assert (torch.diff(batch.candidates.masked_product) >= 0).all()
    own_images = {int(p) for p in pairs.query_product if p >= 0} - {p for _, p in engaged}
    assert own_images & set(batch.products.tolist()), "else the last rule was not seen at work"


def test_held_out_pairs_are_never_drawn_nor_masked() -> None:
    sampler, pairs, _ = sampler_of(engagements(), held_out=0.3)
    held = set(zip(pairs.query[pairs.held_out].tolist(), pairs.product[pairs.held_out].tolist(), strict=True))
    assert held
    for _ in range(20):
        batch = sampler.draw()
        assert not held & set(zip(batch.query.tolist(), batch.product.tolist(), strict=True))
        rows, places = (t.tolist() for t in (batch.candidates.masked_query, batch.candidates.masked_product))
        assert not held & {(int(batch.query[r]), int(batch.products[p])) for r, p in zip(rows, places, strict=True)}


# --------------------------------------------------------------------------------------------------- state and parts


def test_a_restored_sampler_draws_the_batches_of_the_first_one() -> None:
    first, _, _ = sampler_of(LOG)
    for _ in range(3):
        first.draw()
    tables, plain = first.state()
    tables = {name: table.clone() for name, table in tables.items()}
    plain = msgspec.json.decode(msgspec.json.encode(plain["totals"])), plain["rng"]
    expected = [first.draw() for _ in range(3)]
    second, _, _ = sampler_of(LOG)
    second.restore(tables, {"totals": plain[0], "rng": plain[1]})
    for batch in expected:
        again = second.draw()
        np.testing.assert_array_equal(again.products, batch.products)
        np.testing.assert_array_equal(again.query, batch.query)
        assert torch.equal(again.candidates.positive_log_q, batch.candidates.positive_log_q)
        for got, want in zip(again.candidates.weights, batch.candidates.weights, strict=True):
            assert torch.equal(got, want)


def test_the_parts_of_a_batch_are_the_batch() -> None:
    sampler, _, _ = sampler_of(engagements())
    batch = sampler.draw()
    whole = mask_of(batch)
    for rank in range(3):
        query, candidates = batch.part(rank, 3)
        np.testing.assert_array_equal(query, batch.query[rank::3])
        part = batch._replace(query=query, candidates=candidates)
        np.testing.assert_array_equal(mask_of(part), whole[rank::3])
        assert torch.equal(candidates.positive, batch.candidates.positive[rank::3])

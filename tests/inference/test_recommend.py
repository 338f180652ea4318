"""The three surfaces over one index."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from inference.inputs import Float32Array
from inference.recommend import Recommender
from inference.retrieval import RetrievalIndex
from tests.inference.builders import unit

KINDS = ("lamp", "boot", "tent")


def vector(kind: int, number: int) -> Float32Array:
    """Products of a kind lie around its axis, the higher the number, the further off."""
    out = np.zeros(256, np.float32)
    out[kind] = 1.0
    out[10 + kind] = 0.03 * number
    return out / np.linalg.norm(out).astype(np.float32)


VECTORS = {f"{name}-{i}": vector(kind, i) for kind, name in enumerate(KINDS) for i in range(8)}


def search(texts: Sequence[str]) -> Float32Array:
    return np.stack([vector(KINDS.index(t), 0) if t in KINDS else np.zeros(256, np.float32) for t in texts])


@pytest.fixture(scope="module")
def shop() -> Recommender:
    index = RetrievalIndex("1")
    for name, value in VECTORS.items():
        index.upsert(name, 1, value)
    return Recommender(index, search, {name: value for name, value in VECTORS.items() if name != "boot-3"})


def test_similar_products_without_the_product_itself(shop: Recommender) -> None:
    first, second = shop.for_image(["lamp-0", "tent-7"], k=4)
    assert first == ["lamp-1", "lamp-2", "lamp-3", "lamp-4"]
    assert second == ["tent-6", "tent-5", "tent-4", "tent-3"]


def test_a_product_without_an_image_has_no_similar_ones(shop: Recommender) -> None:
    assert shop.for_image(["boot-3", "unheard-of", "boot-0"], k=2) == [[], [], ["boot-1", "boot-2"]]
    assert shop.for_image([]) == []


def test_a_product_that_the_index_does_not_hold_still_finds_k() -> None:
    index = RetrievalIndex("1")
    for name in ("lamp-1", "lamp-2", "lamp-3"):
        index.upsert(name, 1, VECTORS[name])
    assert Recommender(index, search, VECTORS).for_image(["lamp-0"], k=2) == [["lamp-1", "lamp-2"]]


def test_searches_find_by_their_vector_and_unknown_words_find_nothing(shop: Recommender) -> None:
    assert shop.for_search(["boot", "xyzzy"], k=3) == [["boot-0", "boot-1", "boot-2"], []]
    assert shop.for_search([]) == []


def test_interests_are_dealt_in_turn_the_latest_first_without_what_is_known(shop: Recommender) -> None:
    ((ids, sources),) = shop.for_user([["lamp-0", "lamp-1", "boot-0"]], k=6)
    assert [i.partition("-")[0] for i in ids] == ["boot", "lamp"] * 3
    assert [s.partition("-")[0] for s in sources] == ["boot", "lamp"] * 3
    assert ids[::2] == ["boot-1", "boot-2", "boot-3"]
    assert ids[1::2] == ["lamp-2", "lamp-3", "lamp-4"]
    assert set(sources) <= {"lamp-0", "lamp-1", "boot-0"}


def test_a_product_seen_again_is_recent(shop: Recommender) -> None:
    ((ids, _),) = shop.for_user([["lamp-0", "boot-0", "lamp-0"]], k=2)
    assert [i.partition("-")[0] for i in ids] == ["lamp", "boot"]


def test_histories_are_answered_each_for_itself(shop: Recommender) -> None:
    histories = [["tent-2"], [], ["unheard-of"], ["lamp-1", "unheard-of"]]
    answers = shop.for_user(histories, k=3)
    assert [answers[1], answers[2]] == [([], []), ([], [])]
    for history, answer in zip(histories, answers, strict=True):
        assert [answer] == shop.for_user([history], k=3)
    assert all(i.startswith("tent") for i in answers[0][0])
    assert shop.for_user([]) == []


def test_no_product_is_shown_twice_and_an_exhausted_interest_leaves_its_turns(shop: Recommender) -> None:
    known = [name for name in VECTORS if name not in ("lamp-5", "boot-2", "boot-6")]
    ((ids, _),) = shop.for_user([known], k=10)
    assert sorted(ids) == ["boot-2", "boot-6", "lamp-5"]


def test_an_empty_index_recommends_nothing() -> None:
    shop = Recommender(RetrievalIndex("1"), search, VECTORS)
    assert shop.for_image(["lamp-0"]) == [[]]
    assert shop.for_search(["lamp"]) == [[]]
    assert shop.for_user([["lamp-0"]]) == [([], [])]


def test_long_histories_leave_room_for_k_answers() -> None:
    rng = np.random.default_rng(0)
    index = RetrievalIndex("1")
    names = [f"p{i}" for i in range(200)]
    for name, value in zip(names, unit(rng, 200), strict=True):
        index.upsert(name, 1, value)
    ((ids, _),) = Recommender(index, search, {}).for_user([names[:150]], k=30)
    assert len(ids) == 30
    assert not set(ids) & set(names[:150])

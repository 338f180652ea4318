"""The three surfaces over one index."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from inference.arrays import Float32Array
from inference.errors import InputError
from inference.mixing import Mixing
from inference.recommend import Recommender
from inference.retrieval import Attributes, Filter, Live, RetrievalIndex
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


def test_interests_take_turns_the_latest_first_without_products_of_the_history(shop: Recommender) -> None:
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


def stocked() -> RetrievalIndex:
    """Every other product can be bought now."""
    index = RetrievalIndex("1")
    for name, value in VECTORS.items():
        index.upsert(name, 1, value)
        if int(name[-1]) % 2:
            index.set_attributes(name, 1, Attributes(availability="in_stock"))
    return index


def test_all_three_surfaces_are_filtered() -> None:
    shop, here = Recommender(stocked(), search, VECTORS), Filter(in_stock=True)
    assert shop.for_image(["lamp-0", "lamp-1"], k=3, where=here) == [
        ["lamp-1", "lamp-3", "lamp-5"],
        ["lamp-3", "lamp-5", "lamp-7"],
    ]
    assert shop.for_search(["boot"], k=2, where=here) == [["boot-1", "boot-3"]]
    ((ids, _),) = shop.for_user([["lamp-1", "boot-0"]], k=4, where=here)
    assert ids == ["boot-1", "lamp-3", "boot-3", "lamp-5"]


def test_the_observer_gets_every_query() -> None:
    searches: list[tuple[int, int, Filter | None]] = []
    shop = Recommender(
        stocked(), search, VECTORS, observe=lambda queries, k, where: searches.append((len(queries), k, where))
    )
    here = Filter(in_stock=True)
    shop.for_image(["lamp-0", "tent-7"], k=4)
    shop.for_search(["boot"], k=3, where=here)
    shop.for_user([["lamp-0", "boot-0"], ["tent-1"]], k=5)
    assert searches == [(2, 5, None), (1, 3, here), (3, 7, None)]


def test_a_recommender_is_switched_as_a_whole() -> None:
    old, new = Recommender(stocked(), search, {}), Recommender(RetrievalIndex("2"), search, {})
    live = Live(old)
    with pytest.raises(InputError, match="version '2' has 0 products, version '1' 24"):
        live.swap(new)
    for name, value in VECTORS.items():
        new.index.upsert(name, 1, value)
    assert live.swap(new) is old
    assert live.current.model_version == "2"


def test_a_recent_interest_gets_more_places_and_an_old_one_some() -> None:
    shop = Recommender(stocked(), search, VECTORS, mixing=Mixing(half_life=2.0))
    history = ["lamp-0", "lamp-1", "lamp-2", "boot-0", "boot-1", "boot-2"]
    ((ids, _),) = shop.for_user([history], k=8)
    kinds = [i.partition("-")[0] for i in ids]
    assert kinds.count("boot") > kinds.count("lamp") > 0
    assert kinds[0] == "boot"
    assert kinds[4:] != ["boot"] * 4
    assert kinds.index("lamp") < 4
    assert shop.for_user([[], ["unheard-of"]], k=3) == [([], []), ([], [])]


def test_a_lasting_interest_outweighs_a_glance_when_age_counts_little() -> None:
    shop = Recommender(stocked(), search, VECTORS, mixing=Mixing(half_life=1_000.0))
    ((ids, _),) = shop.for_user([["lamp-0", "lamp-1", "lamp-2", "lamp-3", "boot-0"]], k=5)
    assert [i.partition("-")[0] for i in ids].count("lamp") == 4


def similarity(vectors: dict[str, Float32Array], ids: Sequence[str]) -> float:
    """Mean cosine between two of a list."""
    matrix = np.stack([vectors[i] for i in ids])
    cosines = matrix @ matrix.T
    return float((cosines.sum() - len(ids)) / (len(ids) * (len(ids) - 1)))


def test_diversity_shows_several_designs_instead_of_one_in_all_colours() -> None:
    rng = np.random.default_rng(1)
    query, *designs = unit(rng, 31)
    vectors = {"p0": query}
    for design, direction in enumerate(designs):
        for colour, shade in enumerate(unit(rng, 8)):
            product = query + (0.5 + 0.02 * design) * direction + 0.05 * shade
            vectors[f"design{design}-{colour}"] = (product / np.linalg.norm(product)).astype(np.float32)
    index = RetrievalIndex("1")
    index.upsert_many(list(vectors), [1] * len(vectors), np.stack(list(vectors.values())))
    plain = Recommender(index, search, {})
    spread = Recommender(index, search, {}, mixing=Mixing(diversity=0.5))
    ((before, _),), ((after, sources),) = plain.for_user([["p0"]], 10), spread.for_user([["p0"]], 10)
    assert len(set(after)) == 10
    assert set(sources) == {"p0"}
    assert after[0] == before[0], "the nearest stays first"
    assert len({i.partition("-")[0] for i in before}) <= 2, "one design in all its colours"
    assert len({i.partition("-")[0] for i in after}) >= 5
    assert similarity(vectors, after) < similarity(vectors, before) - 0.05
    assert np.mean([query @ vectors[i] for i in after]) > np.mean([query @ vectors[i] for i in before]) - 0.05


def test_requests_of_one_batch_have_filters_of_their_own_on_all_surfaces() -> None:
    shop, here = Recommender(stocked(), search, VECTORS), Filter(in_stock=True)
    assert shop.for_image(["lamp-0", "lamp-0", "boot-0"], k=2, where=[here, None, here]) == [
        ["lamp-1", "lamp-3"],
        ["lamp-1", "lamp-2"],
        ["boot-1", "boot-3"],
    ]
    assert shop.for_search(["boot", "boot"], k=2, where=[None, here]) == [["boot-0", "boot-1"], ["boot-1", "boot-3"]]
    histories = [["lamp-1", "boot-0"], ["lamp-1", "boot-0"], [], ["tent-0"]]
    answers = shop.for_user(histories, k=4, where=[here, None, None, here])
    assert answers == [
        shop.for_user([history], k=4, where=where)[0]
        for history, where in zip(histories, [here, None, None, here], strict=True)
    ]
    assert all(int(i[-1]) % 2 for ids, _ in (answers[0], answers[3]) for i in ids)
    with pytest.raises(InputError, match="3 requests need one filter for all or 3 filters, not 2"):
        shop.for_search(["boot"] * 3, where=[here, None])


def test_a_product_that_went_out_of_stock_is_not_in_the_next_answer() -> None:
    index = stocked()
    shop, here = Recommender(index, search, VECTORS, mixing=Mixing(diversity=0.3)), Filter(in_stock=True)
    index.set_attributes("boot-1", 2, Attributes(availability="out_of_stock"))
    assert shop.for_search(["boot"], k=2, where=here) == [["boot-3", "boot-5"]]
    assert "boot-1" not in shop.for_image(["boot-0"], k=8, where=here)[0]
    assert "boot-1" not in shop.for_user([["boot-0"]], k=8, where=here)[0][0]


def test_a_filter_on_an_unknown_value_is_an_error_on_every_surface() -> None:
    index = stocked()
    index.set_attributes("lamp-1", 2, Attributes(amount_minor=5, currency="EUR", product_type="Home > Lamps"))
    shop = Recommender(index, search, VECTORS)
    wrong = Filter(categories=("Hoem",))
    for ask in (shop.for_image, shop.for_search):
        with pytest.raises(InputError, match="no product has the category 'Hoem'; there are 'home'"):
            ask(["lamp-0"], where=wrong)
    with pytest.raises(InputError, match="no product has a price in USD"):
        shop.for_user([["lamp-0"]], where=[Filter(max_price=5, currency="USD")])

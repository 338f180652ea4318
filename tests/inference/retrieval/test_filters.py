"""Filters: what passes, and that searches find it at any selectivity."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.errors import InputError
from inference.retrieval import Attributes, Candidates, Filter, RetrievalIndex, search
from inference.retrieval.filters import AttributeColumns, normal_path
from tests.inference.retrieval.vectors import DIM, WALKING, clustered, empty, filled, recall

PRODUCTS = 4_000
GROUPS = 40
PRICES = np.random.default_rng(1).permutation(PRODUCTS).tolist()


@pytest.fixture(scope="module")
def shop() -> RetrievalIndex:
    """Products with `PRICES`; the category is the group of the vector, so that it correlates with the query."""
    rng = np.random.default_rng(0)
    index = RetrievalIndex("1", dim=DIM, settings=WALKING)
    vectors = clustered(rng, PRODUCTS, GROUPS)
    index.upsert_many([f"p{i}" for i in range(PRODUCTS)], [1] * PRODUCTS, vectors)
    centres = np.random.default_rng(99).normal(size=(GROUPS, DIM))
    group = (vectors @ centres.T).argmax(1)
    for row, price in enumerate(PRICES):
        index.set_attributes(
            f"p{row}", 1, Attributes(amount_minor=price, currency="EUR", product_type=f"Home > Kind {group[row]}")
        )
    return index


def never(*_: object) -> None:
    raise AssertionError("compared with each vector")


@pytest.mark.parametrize("walks", [False, True], ids=["what costs less", "always the graph"])
@settings(max_examples=40, deadline=None)
@given(share=st.sampled_from([0.01, 0.1, 0.5]), k=st.integers(1, 60), seed=st.integers(0, 2**32 - 1))
def test_at_any_selectivity_a_filtered_search_finds_enough_and_nearly_the_nearest(
    shop: RetrievalIndex, walks: bool, share: float, k: int, seed: int
) -> None:
    queries = clustered(np.random.default_rng(seed), 20, GROUPS)
    where = Filter(max_price=int(PRODUCTS * share) - 1, currency="EUR")
    k = min(k, int(PRODUCTS * share) - 1) if walks else k
    expected = shop.search(queries, k, exact=True, where=where)
    with pytest.MonkeyPatch.context() as patch:
        if walks:
            patch.setattr(shop, "search_cost", search.SearchCost(vectors_per_neighbour=0))
            patch.setattr(search, "compare", never)
        results = shop.search(queries, k, where=where)
    assert {len(f.ids) for f in results} == {min(k, int(PRODUCTS * share))}
    assert all(len(set(f.ids)) == len(f.ids) and f.scores == sorted(f.scores, reverse=True) for f in results)
    assert recall(results, [e.ids for e in expected]) >= 0.95


def test_a_filter_far_from_the_query_still_finds_its_products(shop: RetrievalIndex) -> None:
    """All queries lie in one group and all passing products in others, so that the graph's neighbours do not pass."""
    centre = np.random.default_rng(99).normal(size=(GROUPS, DIM))[0].astype(np.float32)
    where = Filter(categories=tuple(f"home > kind {group}" for group in range(20, 40)))
    queries = centre + 0.05 * np.random.default_rng(1).normal(size=(5, DIM)).astype(np.float32)
    results = shop.search(queries, 30, where=where)
    expected = shop.search(queries, 30, exact=True, where=where)
    assert [len(f.ids) for f in results] == [30] * 5
    assert recall(results, [e.ids for e in expected]) >= 0.95


def test_exact_filtered_search_is_the_obvious_one(shop: RetrievalIndex) -> None:
    query = clustered(np.random.default_rng(2), 1, GROUPS)
    every = shop.search(query, PRODUCTS, exact=True)[0]
    where = Filter(min_price=1_000, max_price=1_999, currency="EUR")
    expected = [p for p in every.ids if 1_000 <= PRICES[int(p[1:])] <= 1_999][:25]
    assert shop.search(query, 25, exact=True, where=where)[0].ids == expected


def test_a_filter_uses_the_new_price_and_the_graph_stays_unchanged() -> None:
    vectors = clustered(np.random.default_rng(3), 50)
    index = filled(vectors)
    cheap = Filter(max_price=500, currency="EUR")
    assert index.search(vectors[:1], 5, where=cheap) == [Candidates([], [])], "no price is known yet"
    assert index.set_attributes("p3", 1, Attributes(amount_minor=499, currency="EUR"))
    assert index.search(vectors[:1], 5, where=cheap)[0].ids == ["p3"]
    assert index.set_attributes("p3", 2, Attributes(amount_minor=501, currency="EUR"))
    assert not index.set_attributes("p3", 1, Attributes(amount_minor=1, currency="EUR")), "older"
    assert index.search(vectors[:1], 5, where=cheap)[0].ids == []
    assert index.wear == 0


def test_attributes_may_come_before_the_vector_and_outlast_it() -> None:
    a, b = clustered(np.random.default_rng(4), 2)
    index = empty()
    here = Filter(in_stock=True)
    index.set_attributes("a", 7, Attributes(availability="in_stock"))
    assert "a" not in index
    assert len(index) == 0
    assert index.search(a[None], where=here)[0].ids == []
    assert index.upsert("a", 1, a)
    assert index.search(a[None], where=here)[0].ids == ["a"]
    index.remove("a", 2)
    assert index.search(a[None], where=here)[0].ids == []
    index.upsert("a", 3, b)
    assert index.search(a[None], where=here)[0].ids == ["a"]


LAMP = Attributes(amount_minor=1_000, currency="EUR", product_type="Home > Lighting > Lamps", availability="in_stock")


@pytest.mark.parametrize(
    ("where", "attributes", "passes"),
    [
        (Filter(), Attributes(), True),
        (Filter(max_price=1_000, currency="EUR"), LAMP, True),
        (Filter(max_price=999, currency="EUR"), LAMP, False),
        (Filter(min_price=1_000, currency="EUR"), LAMP, True),
        (Filter(min_price=1_001, currency="EUR"), LAMP, False),
        (Filter(max_price=1_000, currency="USD"), LAMP, False),
        (Filter(currency="EUR"), LAMP, True),
        (Filter(currency="EUR"), Attributes(amount_minor=None, currency="EUR"), False),
        (Filter(max_price=5, currency="EUR"), Attributes(amount_minor=1), False),
        (Filter(min_price=0, currency="EUR"), Attributes(), False),
        (Filter(categories=("Home",)), LAMP, True),
        (Filter(categories=("home>LIGHTING",)), LAMP, True),
        (Filter(categories=("Home > Lighting > Lamps",)), LAMP, True),
        (Filter(categories=("Home > Light",)), LAMP, False),
        (Filter(categories=("Lighting",)), LAMP, False),
        (Filter(categories=("Garden", "Home > Lighting")), LAMP, True),
        (Filter(categories=("Home",)), Attributes(), False),
        (Filter(in_stock=True), LAMP, True),
        (Filter(in_stock=True), Attributes(availability="preorder"), False),
        (Filter(in_stock=True), Attributes(), False),
        (Filter(in_stock=True, categories=("Home",), max_price=2_000, currency="EUR"), LAMP, True),
        (Filter(in_stock=True, categories=("Garden",), max_price=2_000, currency="EUR"), LAMP, False),
    ],
)
def test_a_filter_passes_exactly_the_products_that_meet_it(where: Filter, attributes: Attributes, passes: bool) -> None:
    columns = AttributeColumns(2)
    columns.set(0, 1, attributes)
    assert columns.matching(where, 2).tolist() == [passes, where == Filter()]


def test_a_category_that_comes_after_the_first_question_is_matched() -> None:
    columns = AttributeColumns(2)
    where = Filter(categories=("Home",))
    columns.set(0, 1, Attributes(product_type="Home"))
    assert columns.matching(where, 2).tolist() == [True, False]
    columns.set(1, 1, Attributes(product_type="Home > Garden"))
    assert columns.matching(where, 2).tolist() == [True, True]


def test_a_path_has_one_form() -> None:
    assert normal_path("  Home >Lighting>  Desk   Lamps > ") == "home > lighting > desk lamps"
    assert normal_path(" > ") == normal_path("") == ""


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"max_price": 5}, "needs a currency"),
        ({"min_price": 9, "max_price": 5, "currency": "EUR"}, r"min_price \(9\) must not exceed its max_price \(5\)"),
        ({"categories": "Home"}, "must be a tuple of paths, not 'Home'"),
        ({"categories": ("Home", " > ")}, "must not be blank"),
    ],
)
def test_filters_that_make_no_sense_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Filter(**wrong)  # type: ignore[arg-type]


def test_fields_from_json_and_from_a_query_string_give_the_same_filter() -> None:
    wanted = Filter(min_price=100, max_price=900, currency="EUR", categories=("Home > Lamps",), in_stock=True)
    json = {"min_price": 100, "max_price": 900, "currency": "EUR", "categories": ["Home > Lamps"], "in_stock": True}
    assert Filter.of(json) == wanted
    assert Filter.of(json | {"min_price": "100", "max_price": "900", "in_stock": "true"}) == wanted
    assert Filter.of({}) == Filter()


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"colour": "red", "max_price": 5}, "no field 'colour'; its fields are min_price, max_price, currency"),
        ({"max_price": "cheap", "currency": "EUR"}, "max_price 'cheap' is invalid"),
        ({"max_price": 19.99, "currency": "EUR"}, r"max_price 19\.99 is invalid"),
        ({"max_price": -5, "currency": "EUR"}, "max_price must be a whole number of minor units .* not -5"),
        ({"max_price": 500}, "needs a currency"),
        ({"currency": "euro"}, "must be an ISO 4217 code such as EUR, not 'euro'"),
        ({"categories": "Home"}, "categories 'Home' is invalid"),
        ({"categories": [""]}, "must not be blank"),
        ({"in_stock": "maybe"}, "in_stock 'maybe' is invalid"),
    ],
)
def test_an_invalid_field_is_named(fields: dict[str, object], told: str) -> None:
    with pytest.raises(InputError, match=told):
        Filter.of(fields)


@pytest.mark.parametrize("wrong", [{"max_price": 1.5, "currency": "EUR"}, {"in_stock": "no"}, {"categories": (1,)}])
def test_a_value_of_another_kind_is_refused_in_python_too(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Filter(**wrong)


def test_an_unknown_currency_or_category_is_named_with_the_existing_ones() -> None:
    index = empty()
    index.check(Filter(currency="USD", categories=("anything",)))  # nothing is known yet
    for row, path in enumerate(["Home > Lamps > Desk", "Home > Chairs", "Garden"]):
        index.set_attributes(f"p{row}", 1, Attributes(amount_minor=5, currency="EUR", product_type=path))
    index.check(Filter(min_price=1, currency="EUR", categories=("home", "HOME > lamps", "garden")))
    with pytest.raises(InputError, match="no product has a price in USD; there are prices in EUR"):
        index.check(Filter(max_price=5, currency="USD"))
    with pytest.raises(InputError, match=r"category 'Home > Lapms > Desk'; there are 'home > chairs', 'home > lamps'$"):
        index.check(Filter(categories=("garden", "Home > Lapms > Desk")))
    with pytest.raises(InputError, match=r"category 'Toys'; there are 'garden', 'home'$"):
        index.check(Filter(categories=("Toys",)))
    index.set_attributes("p2", 2, Attributes())
    index.check(Filter(categories=("Garden",)))  # an empty shelf is no mistake

from __future__ import annotations

import pytest

from feature_repo import views
from feature_repo.definitions import (
    DELETED,
    IMAGES_VIEW,
    JOIN_KEY,
    OFFER_VIEW,
    PRODUCT_VIEWS,
    TEXT_VIEW,
    USER_KEY,
    USER_VIEW,
)
from feature_repo.history.writer import history_schema
from feature_repo.online_row import OnlineRow
from feature_repo.rows import Deletion, ProductFeatures
from tests.feature_repo.builders import NOON, make_embedding, make_product, same


def online(row: ProductFeatures | Deletion) -> list[OnlineRow]:
    return [views.online_row(views.PRODUCT_FORMATS[name], row) for name in (TEXT_VIEW, IMAGES_VIEW, OFFER_VIEW)]


@pytest.mark.parametrize("images", [0, 2])
def test_a_product_comes_back_from_its_rows(images: int) -> None:
    product = make_product("a", 3, images=images)
    joined = views.product_features("a", *online(product))
    assert joined is not None
    assert same(joined, product)


def test_a_product_without_rows_is_none_and_one_with_a_single_row_is_partial() -> None:
    assert views.product_features("a", None, None, None) is None
    text, _, _ = online(make_product("a", 3))
    partial = views.product_features("a", text, None, None)
    assert partial is not None
    assert (partial.text, partial.image_urls, partial.currency) == (make_product("a", 3).text, [], None)


def test_one_tombstone_deletes_the_product_at_the_newest_version() -> None:
    text, images, _ = online(make_product("a", 3))
    (_, _, offer) = online(Deletion(id="a", version=4, event_time=NOON))
    product = views.product_features("a", text, images, offer)
    assert product is not None
    assert (product.deleted, product.version, product.event_time, set(product.text.values())) == (True, 4, NOON, {""})


def test_an_embedding_comes_back_from_its_row() -> None:
    embedding = make_embedding("a", 2)
    row = views.online_row(views.EMBEDDING_FORMAT, embedding)
    assert same(views.product_embedding("a", "m1", row), embedding)


def test_views_beside_the_fixed_ones_hold_embeddings() -> None:
    assert views.format_of("product_embedding_m1") is views.EMBEDDING_FORMAT
    assert {views.format_of(name).key for name in PRODUCT_VIEWS} == {JOIN_KEY}
    assert views.format_of(USER_VIEW).key == USER_KEY


def test_encoding_gives_the_rows_of_both_forms_in_one_call() -> None:
    """The online rows and the history's table hold the same rows; a tombstone has no features in either."""
    rows = [make_product("a", 3), Deletion(id="b", version=4, event_time=NOON)]
    form = views.format_of(OFFER_VIEW)
    schema = history_schema(form.types)
    encoded = views.encode(OFFER_VIEW, rows, schema, NOON)
    assert encoded.online == [views.online_row(form, row) for row in rows]
    assert encoded.history.equals(views.history_table(form, schema, rows, NOON))
    assert [row.deleted for row in encoded.online] == encoded.history[DELETED].to_pylist() == [False, True]
    assert encoded.history["currency"].to_pylist()[1] is None
    assert list(encoded.online[1].values) == [None] * len(form.types)

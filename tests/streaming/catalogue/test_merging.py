"""Which updates count, and what a product is after them."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import pytest

from feature_repo.rows import ProductFeatures
from streaming.catalogue.merging import Product, applicable_updates, changed_views, is_offer_patch, merge
from streaming.contracts import ATTRIBUTES
from streaming.errors import ContractError
from tests.streaming.builders import NOW, price, update, vector_of

FULL: dict[str, Any] = {
    "title": "Oak table",
    "description": "solid",
    "link": "https://Shop.example:8443/p1?a=b",
    "image_link": "a.png",
    "additional_image_link": ["b.png", "a.png"],
    "product_type": ["Home", "Tables"],
    "brand": "Acme",
    "price": price("12.30"),
    "availability": "in_stock",
}


def stored(product: Product) -> ProductFeatures:
    n = len(product.links)
    return ProductFeatures(
        id=product.id,
        version=product.version,
        event_time=product.event_time,
        text=product.text,
        image_urls=list(product.links),
        image_hashes=[f"hash of {link}" for link in product.links],
        image_vectors=vector_of("x")[None].repeat(n, 0),
        visual_version="v1" if n else "",
        amount_minor=product.amount_minor,
        currency=product.currency,
        availability=product.availability,
    )


def test_an_upsert_states_the_whole_product() -> None:
    product = merge(None, update("p1", 3, **FULL))
    assert product.text["title"] == "Oak table"
    assert product.text["product_type"] == "Home > Tables"
    assert product.text["domain"] == "shop.example"
    assert product.text["color"] == ""
    assert product.links == ("a.png", "b.png"), "each image once, the main one first"
    assert (product.amount_minor, product.currency, product.availability) == (1230, "EUR", "in_stock")
    assert merge(product, update("p1", 4)).text["brand"] == "", "what a later upsert leaves out is gone"


def test_a_patch_changes_what_it_names_and_nothing_else() -> None:
    before = merge(None, update("p1", 3, **FULL))
    after = merge(before, update("p1", 4, "patch", brand=None, price=price("9.99", "USD")))
    assert after.text == {**before.text, "brand": ""}
    assert (after.amount_minor, after.currency) == (999, "USD")
    assert (after.links, after.availability) == (before.links, before.availability)
    assert merge(after, update("p1", 5, "patch", image_link="c.png")).links == ("c.png",)
    assert merge(after, update("p1", 5, "patch", price=None)).amount_minor is None


def test_a_patch_needs_something_to_change() -> None:
    with pytest.raises(ContractError, match=r"unknown product 'p1'.*full upsert"):
        merge(None, update("p1", 1, "patch", brand="x"))
    gone = merge(None, update("p1", 1, "delete"))
    assert gone.deleted
    with pytest.raises(ContractError, match="deleted product 'p1'"):
        merge(gone, update("p1", 2, "patch", brand="x"))
    assert not merge(gone, update("p1", 2)).deleted


@pytest.mark.parametrize(
    "link",
    [
        "https://Shop.Example/p/1?x=[2]",
        "http://shop.example:8080",
        "http://user:123@shop.example/p",
        "HTTP://shop.example#top",
        "http://[2001:db8::1]:80/p",
        "https://bücher.example/p",
        "ftp://shop.example/p",
        "shop.example/p",
        "https://shop.example\\p",
        "",
    ],
)
def test_the_domain_is_the_host_of_pythons_url_parser(link: str) -> None:
    assert merge(None, update("p1", 1, link=link)).text["domain"] == (urlsplit(link).hostname or "")


def test_a_link_that_no_url_parser_accepts_has_no_domain() -> None:
    assert merge(None, update("p1", 1, link="http://[::1")).text["domain"] == ""


def test_older_versions_are_stale_equal_ones_count_and_superseded_ones_are_neither() -> None:
    old, same, patch = update("p", 1), update("p", 2), update("p", 3, "patch")
    assert applicable_updates([old, same], 2) == ([same], 1)
    assert applicable_updates([patch, same, old], 0) == ([same, patch], 0)
    assert applicable_updates([update("p", 4, "delete"), patch, same], 0)[0][0].op == "delete"
    assert applicable_updates([old], 2) == ([], 1)


def test_of_equal_versions_the_later_arrival_wins() -> None:
    first, second = update("p", 2, title="first"), update("p", 2, title="second")
    assert applicable_updates([first, second], 0) == ([second], 0)


def test_a_patch_that_arrives_before_its_upsert_in_a_batch_comes_after_it() -> None:
    patch, upsert = update("p", 5, "patch", brand="x"), update("p", 4)
    assert applicable_updates([patch, upsert], 0) == ([upsert, patch], 0)


@pytest.mark.parametrize(
    ("fields", "views"),
    [
        ({}, ()),
        ({"brand": "B"}, ("text",)),
        ({"image_link": "c.png"}, ("images",)),
        ({"price": price("1")}, ("offer",)),
        ({"availability": "out_of_stock"}, ("offer",)),
        ({"title": "T", "image_link": None, "price": None}, ("text", "images", "offer")),
    ],
)
def test_only_what_changed_is_written(fields: dict[str, Any], views: tuple[str, ...]) -> None:
    before = merge(None, update("p1", 3, **FULL))
    assert changed_views(stored(before), merge(before, update("p1", 4, "patch", **fields)), "v1") == views


def test_a_new_product_and_one_that_comes_back_are_written_whole() -> None:
    product = merge(None, update("p1", 3, **FULL))
    everything = ("text", "images", "offer")
    assert changed_views(None, product, "v1") == everything
    gone = ProductFeatures(id="p1", version=2, event_time=NOW, deleted=True)
    assert changed_views(gone, product, "v1") == everything


def test_images_that_another_encoder_encoded_count_as_changed() -> None:
    product = merge(None, update("p1", 3, **FULL))
    assert changed_views(stored(product), product, "v2") == ("images",)
    bare = merge(None, update("p1", 3))
    assert changed_views(stored(bare), bare, "v2") == ()


def test_every_attribute_of_the_contract_reaches_the_product() -> None:
    """An attribute that is added to the contract and forgotten here would be lost silently."""
    before = merge(None, update("p1", 1, **FULL))
    values: dict[str, Any] = {
        "price": price("99"),
        "availability": "preorder",
        "additional_image_link": ["z.png"],
        "product_type": ["Z"],
    }
    for name in ATTRIBUTES:
        after = merge(before, update("p1", 1, "patch", **{name: values.get(name, "https://z")}))
        assert after != before, name


def test_only_an_update_of_nothing_but_the_offer_takes_the_fast_path() -> None:
    assert is_offer_patch(update("p", 1, "patch", price=price("5")))
    assert is_offer_patch(update("p", 1, "patch", availability=None))
    assert not is_offer_patch(update("p", 1, "patch", price=price("5"), brand=None))
    assert not is_offer_patch(update("p", 1, "patch", price=price("5"), refresh_images=True))
    assert not is_offer_patch(update("p", 1, price=price("5")))
    assert not is_offer_patch(update("p", 1, "delete"))

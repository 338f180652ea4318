"""From what a feed's cell holds to what the contract holds."""

from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.errors import ContractError
from streaming.feeds import values

FOLDER = Path("/feeds/shop")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (9.99, "9.99"),
        (28, "28"),
        ("9.99", "9.99"),
        (" 9.99 USD ", "9.99"),
        ("USD 9.99", "9.99"),
        ("9.99usd", "9.99"),
        (Decimal("9.990"), "9.99"),
        (0, "0"),
        ({"amount": "9.99", "currency": "USD"}, "9.99"),
        ({"amount": 9.99, "currency": "USD"}, "9.99"),
        ("-3 USD", "-3"),
    ],
)
def test_prices_as_sources_write_them(value: object, expected: str) -> None:
    assert values.price(value, None, "USD") == {"amount": Decimal(expected), "currency": "USD"}


@given(st.decimals(min_value=0, max_value=10**9, places=2))
def test_a_price_keeps_its_decimals(amount: Decimal) -> None:
    for value in (f"{amount} EUR", {"amount": str(amount), "currency": "EUR"}, float(amount)):
        assert values.price(value, None, "EUR") == {"amount": amount, "currency": "EUR"}


@pytest.mark.parametrize("value", [None, "", "  ", float("nan"), {"amount": None, "currency": "USD"}])
def test_an_empty_price_is_none(value: object) -> None:
    assert values.price(value, None, "USD") is None


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        ("1,234.50 USD", "no thousands separator"),
        ("9,99 EUR", "with a dot"),
        ("$9.99", "no symbol"),
        ("free", "is not a price"),
        ("1e5 USD", "is not a price"),
        ("9" * 40, "is not a price"),
        (True, "must be a number or text"),
        ([9.99], "is a list"),
        (float("inf"), "is not a finite number"),
        (Decimal("1e999999999"), "is not a finite number"),
        ("9.99 USD EUR", "is not a price"),
        ("USD 9.99 EUR", "two currencies"),
        ("٣ USD", "is not a price"),
    ],
)
def test_an_invalid_price_is_refused_with_the_form_to_write(value: object, rule: str) -> None:
    with pytest.raises(ContractError, match=rule) as caught:
        values.price(value, None, "USD")
    assert caught.value.field == "price"


def test_a_price_and_a_currency_column_must_agree() -> None:
    assert values.price("9.99 USD", "usd", None) == {"amount": Decimal("9.99"), "currency": "USD"}
    with pytest.raises(ContractError, match="states two currencies, USD and EUR"):
        values.price("9.99 USD", "EUR", None)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("in stock", "in_stock"),
        ("In_Stock", "in_stock"),
        ("out of stock", "out_of_stock"),
        ("pre-order", "preorder"),
        ("backorder", "backorder"),
        ("", None),
    ],
)
def test_availability_is_read_as_google_writes_it(value: str, expected: str | None) -> None:
    assert values.availability(value) == expected


def test_an_unknown_availability_is_refused() -> None:
    with pytest.raises(ContractError, match="'soon' must be in_stock, out_of_stock, preorder or backorder"):
        values.availability("soon")


@pytest.mark.parametrize(
    ("stock", "expected"), [(3, "in_stock"), ("3", "in_stock"), (0, "out_of_stock"), (-2, "out_of_stock"), (None, None)]
)
def test_stock_becomes_availability(stock: object, expected: str | None) -> None:
    assert values.availability_of_stock(stock) == expected


@pytest.mark.parametrize("stock", ["many", True, [1], float("inf")])
def test_a_stock_that_is_not_a_number_is_refused(stock: object) -> None:
    with pytest.raises(ContractError, match="stock: "):
        values.availability_of_stock(stock)


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("https://shop.example/a.jpg", "https://shop.example/a.jpg"),
        ("//cdn.example/a.jpg", "https://cdn.example/a.jpg"),
        ("file:///data/a.jpg", "file:///data/a.jpg"),
        ("images/a.jpg", "/feeds/shop/images/a.jpg"),
        ("./images/../a b.jpg", "/feeds/shop/a b.jpg"),
        ("/data/a.jpg", "/data/a.jpg"),
        (" ", None),
    ],
)
def test_image_links_are_absolute(link: str, expected: str | None) -> None:
    assert values.image("image_link", link, FOLDER) == expected


@pytest.mark.parametrize(
    ("link", "rule"),
    [
        ("../../etc/a.jpg", "leads out of the feed's folder"),
        ("../shop2/a.jpg", "leads out"),
        ("ftp://a/b.jpg", "must be http"),
        ("data:image/png;base64,AAAA", "must be http"),
        ("javascript:alert(1)", "must be http"),
        (7, "must be text"),
    ],
)
def test_image_links_to_elsewhere_are_refused(link: object, rule: str) -> None:
    with pytest.raises(ContractError, match=rule):
        values.image("image_link", link, FOLDER)


def test_a_feed_in_the_root_folder_may_have_relative_images() -> None:
    assert values.image("image_link", "images/a.jpg", Path("/")) == "/images/a.jpg"


def test_several_images_come_as_a_list_or_with_commas() -> None:
    expected = ["https://a/1.jpg", "/feeds/shop/2.jpg"]
    assert values.images("additional_image_link", "https://a/1.jpg, 2.jpg,", FOLDER) == expected
    assert values.images("additional_image_link", ["https://a/1.jpg", "2.jpg", ""], FOLDER) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2026-01-31T12:00:00Z", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31T12:00:00.000001+01:00", datetime(2026, 1, 31, 11, 0, 0, 1, tzinfo=UTC)),
        (datetime(2026, 1, 31, 12), datetime(2026, 1, 31, 12, tzinfo=UTC)),
        (date(2026, 1, 31), datetime(2026, 1, 31, tzinfo=UTC)),
        ("", None),
    ],
)
def test_times_become_utc(value: object, expected: datetime | None) -> None:
    assert values.instant("updated_at", value) == expected


@pytest.mark.parametrize("value", ["31.01.2026", "soon", 1769860800, "0001-01-01T00:00:00+14:00"])
def test_an_invalid_time_is_refused(value: object) -> None:
    with pytest.raises(ContractError, match="updated_at: "):
        values.instant("updated_at", value)


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        ("é\udce9", r"byte 0xE9"),
        ("\ud83d", r"lone surrogate U\+D83D"),
        (True, "true or false"),
        ({}, "an object"),
        (b"a", "binary"),
        (1.5, "a number"),
    ],
)
def test_invalid_text_is_refused_with_the_reason(value: object, rule: str) -> None:
    with pytest.raises(ContractError, match=rule):
        values.text("title", value)


def test_whole_numbers_are_text_only_where_sources_write_them() -> None:
    assert values.text("id", 17) == "17"
    assert values.text("google_product_category", 2271) == "2271"
    with pytest.raises(ContractError, match="title: must be text, is a number"):
        values.text("title", 17)


@pytest.mark.parametrize("value", [Decimal("1e999999999"), "1.5", "9" * 5_000, "x", None])
def test_an_invalid_whole_number_is_refused(value: object) -> None:
    with pytest.raises(ContractError, match="version: "):
        values.whole_number("version", value)

"""`read_feed`, the entry point for all formats: rows refused one by one, and whole files that are refused."""

import json
from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from streaming.contracts import ProductUpdate, check_update
from streaming.errors import FeedError
from streaming.feeds import FORMATS, BadRow, read_feed
from streaming.kafka.codec import JSON
from tests.streaming.feeds.samples import RSS, SAMPLES

NOW = datetime(2026, 1, 31, 12, 0, 0, 5, tzinfo=UTC)
NOW_US = 1_769_860_800_000_005
DATA = Path(__file__).parents[3].parent / "shared" / "data"


@pytest.mark.parametrize("format", SAMPLES)
def test_bad_rows_are_refused_one_by_one_and_the_feed_goes_on(tmp_path: Path, format: str) -> None:
    (tmp_path / "feed").write_text(SAMPLES[format])
    feed = read_feed(tmp_path / "feed", now=NOW, format=format)
    rows = list(feed)
    good = [row for row in rows if isinstance(row, ProductUpdate)]
    bad = [row for row in rows if isinstance(row, BadRow)]
    first = 2 if format.endswith(("tsv", "csv")) else 1
    second = first + (2 if format == "shopify-csv" else 1)
    assert good[0].id == "A"
    assert good[0].title == "Mug"
    double, missing = sorted(bad, key=lambda row: row.row)
    assert (double.row, double.product_id, double.field) == (second, "A", "id")
    assert double.rule == f"is already used in row {first}; use each id once"
    assert (missing.row, missing.product_id) == (second + 1, None)
    assert missing.rule.startswith("is missing")
    assert (feed.accepted, feed.refused) == (len(good), 2)


@pytest.mark.parametrize(
    ("content", "currency", "expected"),
    [
        ('{"id": "A", "title": "Mug", "price": 9.99}', None, ("9.99", "USD")),
        ('{"id": "A", "title": "Mug", "price": 9.99}', "EUR", ("9.99", "EUR")),
        ('{"id": "A", "title": "Mug", "price": 9.99, "currency": "GBP"}', "EUR", ("9.99", "GBP")),
        ("id\ttitle\tprice\nA\tMug\t9.99 GBP\n", "EUR", ("9.99", "GBP")),
        ("id\ttitle\tprice\nA\tMug\t9.99\n", "EUR", ("9.99", "EUR")),
        ("id\ttitle\tprice\nA\tMug\t9.99\n", None, "states no currency"),
    ],
)
def test_the_currency_is_the_rows_own_or_the_feeds(
    tmp_path: Path, content: str, currency: str | None, expected: tuple[str, str] | str
) -> None:
    (tmp_path / "feed").write_text(content)
    row = next(read_feed(tmp_path / "feed", now=NOW, currency=currency))
    if isinstance(expected, str):
        assert isinstance(row, BadRow)
        assert row.rule.startswith(expected)
    else:
        assert isinstance(row, ProductUpdate)
        assert row.price
        assert (row.price.amount, row.price.currency) == (Decimal(expected[0]), expected[1])


@pytest.mark.parametrize("format", SAMPLES)
def test_an_accepted_row_passes_the_contract_when_it_is_encoded(tmp_path: Path, format: str) -> None:
    (tmp_path / "feed").write_text(SAMPLES[format])
    for row in read_feed(tmp_path / "feed", now=NOW, format=format):
        if isinstance(row, ProductUpdate):
            assert JSON.decode(ProductUpdate, JSON.encode(row)) == row
            check_update(row, now=NOW)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", "\n\n"),
        ("a.tsv", "id\ttitle\n"),
        ("a.csv", "id,title\n"),
        ("a.xml", RSS.format("<title>Shop</title>")),
    ],
)
def test_a_file_without_products_is_refused(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(FeedError, match=f"{name} contains no products"):
        list(read_feed(tmp_path / name, now=NOW))


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.jsonl", b'[{"id": "A"}]', "is one JSON array; write one product per line"),
        ("a.jsonl", '{"id": "A"}'.encode("utf-16"), "is UTF-16"),
        ("a.parquet", b"PAR1 but no more than that", "is not a valid Parquet file"),
        ("a.tsv", b"title\tprice\nMug\t1\n", "has no column 'id'; its columns are: title, price"),
        ("a.tsv", b"id\tprice\nA\t1\n", "has no column 'title'"),
        ("a.tsv", b"id\tid\nA\tB\n", "has the column 'id' twice"),
        ("a.tsv", b"\n\nid\ttitle\n", "has no header in its first row"),
        ("a.tsv", "id\ttitle\tf\xe4rg\nA\tMug\t1\n".encode("latin-1"), "is not valid UTF-8 in its header"),
        ("a.tsv", b'"id\ttitle\nA\tMug\n', "has a broken header"),
        ("a.tsv", b"\xff\xfei\x00d\x00\t", "is not valid UTF-16"),
        ("a.xml", b"<rss><channel><item></rss>", "is not well-formed XML"),
        ("a.xml", b"<html><item/></html>", "is neither RSS 2.0"),
        ("a.dat", b"just some words", "has no known format"),
        ("a.dat", b"\n\n", "has no known format"),
    ],
)
def test_a_file_of_another_format_than_its_name_is_refused(
    tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FeedError, match=reason):
        list(read_feed(tmp_path / name, now=NOW))


def test_a_shopify_import_of_another_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,title\nA,Mug\n")
    with pytest.raises(FeedError, match="is not a Shopify product export"):
        list(read_feed(tmp_path / "a.csv", now=NOW, format="shopify-csv"))


def test_unknown_formats_and_currencies_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("{}")
    with pytest.raises(FeedError, match=rf"'yaml' is unknown; it must be one of {FORMATS[0]}"):
        read_feed(tmp_path / "a.jsonl", now=NOW, format="yaml")
    with pytest.raises(FeedError, match="'XYZ' is not an active ISO 4217 code"):
        read_feed(tmp_path / "a.jsonl", now=NOW, currency="XYZ")


def test_the_images_of_a_folder_are_read_relative_to_it(tmp_path: Path) -> None:
    row = {
        "id": 7,
        "title": "Hammer",
        "description": "Heavy.",
        "price": 28,
        "stock": 25,
        "category": ["HAND TOOLS", "HAMMERS"],
        "image": "images/7.jpg",
        "brand": "Thor",
    }
    (tmp_path / "products.jsonl").write_text(json.dumps(row))
    (update,) = read_feed(tmp_path, now=NOW)
    assert isinstance(update, ProductUpdate)
    assert (update.id, update.product_type, update.availability, update.brand) == (
        "7",
        ["HAND TOOLS > HAMMERS"],
        "in_stock",
        "Thor",
    )
    assert update.image_link == str(tmp_path / "images" / "7.jpg")
    assert update.price
    assert update.price.amount_minor == 2800


@pytest.mark.parametrize(("name", "products"), [("zava", 419), ("eshop", 101)])
def test_a_real_catalogue_is_read_completely_and_its_images_exist(name: str, products: int) -> None:
    if not (DATA / name).is_dir():
        pytest.skip(f"the real catalogue {name} is not beside the repository (../shared/data)")
    feed = read_feed(DATA / name, now=NOW)
    rows = [row for row in feed if isinstance(row, ProductUpdate)]
    assert (len(rows), feed.refused, feed.unknown_columns) == (products, 0, Counter())
    for row in rows:
        assert row.price
        assert row.price.currency == "USD"
        assert isinstance(row.image_link, str)
        assert Path(row.image_link).is_file()

"""One entry for all formats: what a file is, what is refused as a whole, and what all importers share."""

import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from streaming.contracts import ProductUpdate, decode_update, encode
from streaming.errors import FeedError
from streaming.feeds import FORMATS, BadRow, read_feed

NOW = datetime(2026, 1, 31, 12, 0, 0, 5, tzinfo=UTC)
NOW_US = 1_769_860_800_000_005
DATA = Path(__file__).parents[3].parent / "shared" / "data"

RSS = '<rss version="2.0" xmlns:g="http://base.google.com/ns/1.0"><channel>{}</channel></rss>'
SAMPLES = {
    "jsonl": '{"id": "A", "title": "Mug"}\n{"id": "A", "title": "Again"}\n{"title": "No id"}\n',
    "merchant-tsv": "id\ttitle\nA\tMug\nA\tAgain\n\tNo id\n",
    "merchant-csv": "id,title\nA,Mug\nA,Again\n,No id\n",
    "merchant-xml": RSS.format(
        "<item><g:id>A</g:id><title>Mug</title></item><item><g:id>A</g:id><title>Again</title></item>"
        "<item><title>No id</title></item>"
    ),
    "shopify-csv": "Handle,Title,Variant Price\nA,Mug,1\nB,Plate,1\nA,Again,1\n,No id,1\n",
}


@pytest.mark.parametrize("format", SAMPLES)
@pytest.mark.parametrize("suffix", ["", ".txt"])
def test_without_a_telling_suffix_the_content_decides(tmp_path: Path, format: str, suffix: str) -> None:
    path = tmp_path / f"feed{suffix}"
    path.write_text(SAMPLES[format])
    assert read_feed(path, now=NOW).format == format


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("a.jsonl", "jsonl"),
        ("a.ndjson", "jsonl"),
        ("a.TSV", "merchant-tsv"),
        ("a.csv", "merchant-csv"),
        ("a.xml", "merchant-xml"),
    ],
)
def test_the_suffix_decides(tmp_path: Path, name: str, format: str) -> None:
    (tmp_path / name).write_text(SAMPLES[format])
    assert read_feed(tmp_path / name, now=NOW).format == format


def test_parquet_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": ["A"], "title": ["Mug"]}), tmp_path / "feed")
    assert read_feed(tmp_path / "feed", now=NOW).format == "parquet"


def test_a_format_that_is_named_is_not_guessed(tmp_path: Path) -> None:
    (tmp_path / "feed.data").write_text(SAMPLES["merchant-csv"])
    assert read_feed(tmp_path / "feed.data", now=NOW, format="merchant-csv").format == "merchant-csv"


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
    assert double.rule == f"row {first} already holds it; the later row is refused"
    assert (missing.row, missing.product_id) == (second + 1, None)
    assert missing.rule.startswith("is missing")
    assert (feed.accepted, feed.refused) == (len(good), 2)


def test_a_row_after_a_refused_one_with_the_same_id_is_taken(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"id": "A"}\n{"id": "A", "title": "Mug"}\n')
    first, second = read_feed(tmp_path / "a.jsonl", now=NOW)
    assert isinstance(first, BadRow)
    assert first.field == "title"
    assert isinstance(second, ProductUpdate)


def test_rows_without_a_version_share_the_time_of_the_import(tmp_path: Path) -> None:
    """So that a later import of the same file wins."""
    (tmp_path / "a.jsonl").write_text('{"id": "A", "title": "Mug"}\n{"id": "B", "title": "Mug"}\n')
    rows = [row for row in read_feed(tmp_path / "a.jsonl", now=NOW) if isinstance(row, ProductUpdate)]
    assert [(row.version, row.event_time) for row in rows] == [(NOW_US, NOW)] * 2
    later = next(read_feed(tmp_path / "a.jsonl", now=NOW + timedelta(microseconds=1)))
    assert isinstance(later, ProductUpdate)
    assert later.version > rows[0].version


@pytest.mark.parametrize(
    ("fields", "version", "event_time"),
    [
        ({"version": 17}, 17, NOW),
        ({"version": "17"}, 17, NOW),
        ({"updated_at": "2026-01-30T12:00:00Z"}, NOW_US - 5 - 86_400_000_000, datetime(2026, 1, 30, 12, tzinfo=UTC)),
        (
            {"updated_at": "2026-01-30 14:00:00+02:00"},
            NOW_US - 5 - 86_400_000_000,
            datetime(2026, 1, 30, 12, tzinfo=UTC),
        ),
        ({"updated_at": "2026-01-30"}, NOW_US - 5 - 129_600_000_000, datetime(2026, 1, 30, tzinfo=UTC)),
        ({"version": 17, "updated_at": "2026-01-30"}, 17, datetime(2026, 1, 30, tzinfo=UTC)),
    ],
)
def test_a_rows_own_version_or_time_counts(
    tmp_path: Path, fields: dict[str, object], version: int, event_time: datetime
) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"id": "A", "title": "Mug", **fields}))
    row = next(read_feed(tmp_path / "a.jsonl", now=NOW))
    assert isinstance(row, ProductUpdate), row
    assert (row.version, row.event_time) == (version, event_time)


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


def test_unknown_columns_are_ignored_and_counted(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("id\ttitle\tshelf life\tmpn\nA\tMug\tlong\t1\n")
    (tmp_path / "a.jsonl").write_text('{"id": "A", "title": "Mug", "x": 1}\n{"id": "B", "title": "Mug", "x": 1}\n')
    for name, expected in (("a.tsv", {"shelf life": 1, "mpn": 1}), ("a.jsonl", {"x": 2})):
        feed = read_feed(tmp_path / name, now=NOW)
        assert all(isinstance(row, ProductUpdate) for row in feed)
        assert feed.unknown_columns == Counter(expected)


def test_a_feed_of_random_names_does_not_fill_the_memory(tmp_path: Path) -> None:
    lines = [json.dumps({"id": str(i), "title": "Mug", f"key {i}": 1}) for i in range(1_200)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    feed = read_feed(tmp_path / "a.jsonl", now=NOW)
    assert len(list(feed)) == 1_200
    assert len(feed.unknown_columns) == 1_001
    assert feed.unknown_columns["…"] == 200


@pytest.mark.parametrize("format", SAMPLES)
def test_what_is_accepted_passes_the_contract_on_the_wire(tmp_path: Path, format: str) -> None:
    (tmp_path / "feed").write_text(SAMPLES[format])
    for row in read_feed(tmp_path / "feed", now=NOW, format=format):
        if isinstance(row, ProductUpdate):
            assert decode_update(encode(row), now=NOW) == row


# --- Whole files that cannot be read ---


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FeedError, match=r"There is no feed at .*none\.tsv"):
        read_feed(tmp_path / "none.tsv", now=NOW)


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet", "a.tsv", "a.csv", "a.xml", "a"])
def test_an_empty_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(FeedError, match=f"{name} is empty"):
        read_feed(tmp_path / name, now=NOW)


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
    with pytest.raises(FeedError, match=f"{name} holds no products"):
        list(read_feed(tmp_path / name, now=NOW))


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.jsonl", b'[{"id": "A"}]', "is one JSON array; write one product a line"),
        ("a.jsonl", '{"id": "A"}'.encode("utf-16"), "is UTF-16"),
        ("a.parquet", b"PAR1 but no more than that", "is no sound Parquet file"),
        ("a.tsv", b"title\tprice\nMug\t1\n", "has no column 'id'; its columns are: title, price"),
        ("a.tsv", b"id\tprice\nA\t1\n", "has no column 'title'"),
        ("a.tsv", b"id\tid\nA\tB\n", "has the column 'id' twice"),
        ("a.tsv", b"\n\nid\ttitle\n", "has no header in its first row"),
        ("a.tsv", "id\ttitle\tf\xe4rg\nA\tMug\t1\n".encode("latin-1"), "is not valid UTF-8 in its header"),
        ("a.tsv", b'"id\ttitle\nA\tMug\n', "has a broken header"),
        ("a.tsv", b"\xff\xfei\x00d\x00\t", "is not valid UTF-16"),
        ("a.xml", b"<rss><channel><item></rss>", "is not well-formed XML"),
        ("a.xml", b"<html><item/></html>", "is neither RSS 2.0"),
        ("a.dat", b"just some words", "is in no format that is known here"),
        ("a.dat", b"\n\n", "is in no format that is known here"),
    ],
)
def test_a_file_that_is_not_what_it_claims_is_refused(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FeedError, match=reason):
        list(read_feed(tmp_path / name, now=NOW))


def test_a_shopify_import_of_another_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,title\nA,Mug\n")
    with pytest.raises(FeedError, match="is no Shopify product export"):
        list(read_feed(tmp_path / "a.csv", now=NOW, format="shopify-csv"))


def test_unknown_formats_and_currencies_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("{}")
    with pytest.raises(FeedError, match=rf"'yaml' is unknown; it is one of {FORMATS[0]}"):
        read_feed(tmp_path / "a.jsonl", now=NOW, format="yaml")
    with pytest.raises(FeedError, match="'XYZ' is no active ISO 4217 code"):
        read_feed(tmp_path / "a.jsonl", now=NOW, currency="XYZ")


def test_a_folder_stands_for_its_products_and_images(tmp_path: Path) -> None:
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


def test_a_folder_without_products_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FeedError, match=r"holds no products\.jsonl"):
        read_feed(tmp_path, now=NOW)


def test_a_bad_row_reads_as_a_sentence() -> None:
    assert str(BadRow(7, "A1", "price", "must be …")) == "row 7 (id 'A1'): price: must be …"
    assert str(BadRow(7, None, "", "is not JSON")) == "row 7: is not JSON"


@pytest.mark.parametrize(("name", "products"), [("zava", 419), ("eshop", 101)])
def test_a_real_catalogue_comes_in_whole_with_images_that_exist(name: str, products: int) -> None:
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

"""JSON Lines."""

import json
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from streaming.contracts import ATTRIBUTES, MAX_MESSAGE_BYTES, ProductUpdate
from streaming.feeds import BadRow, Row, read_feed
from streaming.kafka.codec import JSON

Read = Callable[..., list[Row]]


def line(**fields: Any) -> str:
    return json.dumps({"id": "A", "title": "Mug", **fields})


def test_a_product_in_the_contracts_own_form_is_read_unchanged(read: Read) -> None:
    sent = {
        "id": "A",
        "version": 3,
        "event_time": "2026-01-30T00:00:00Z",
        "op": "upsert",
        "title": "Mug",
        "description": "Holds tea.",
        "link": "https://shop.example/a",
        "image_link": "https://shop.example/a.jpg",
        "additional_image_link": ["https://shop.example/b.jpg"],
        "google_product_category": "2169",
        "product_type": ["Kitchen > Mugs", "Gifts"],
        "brand": "Kiln",
        "color": "red",
        "material": "clay",
        "pattern": "dotted",
        "size": "250 ml",
        "size_type": "regular",
        "price": {"amount": "9.99", "currency": "EUR"},
        "availability": "preorder",
    }
    assert set(ATTRIBUTES) < set(sent)
    (row,) = read("a.jsonl", json.dumps(sent))
    assert isinstance(row, ProductUpdate)
    assert json.loads(JSON.encode(row)) == {key: value for key, value in sent.items() if key != "op"}


def test_other_names_of_the_same_fields_are_read(read: Read) -> None:
    content = json.dumps(
        {
            "sku": "A",
            "name": "Mug",
            "url": "https://shop.example/a",
            "image_url": "https://shop.example/a.jpg",
            "colour": "red",
            "vendor": "Kiln",
            "categories": ["Kitchen", "Mugs"],
            "quantity": 0,
        }
    )
    (row,) = read("a.jsonl", content)
    assert isinstance(row, ProductUpdate)
    assert (row.id, row.title, row.color, row.brand) == ("A", "Mug", "red", "Kiln")
    assert (row.product_type, row.availability) == (["Kitchen > Mugs"], "out_of_stock")


@pytest.mark.parametrize("content", ['{"id":"A","title":"Mug","name":"No"}', '{"name":"No","id":"A","title":"Mug"}'])
def test_the_contracts_own_name_wins_over_another(read: Read, content: str) -> None:
    (row,) = read("a.jsonl", content)
    assert isinstance(row, ProductUpdate)
    assert row.title == "Mug"


def test_patches_and_deletions_are_read(read: Read) -> None:
    patch, delete = read("a.jsonl", '{"id":"A","op":"patch","color":null,"price":5}\n{"id":"B","op":"delete"}')
    assert isinstance(patch, ProductUpdate)
    assert patch.color is None, "stated as empty"
    assert json.loads(JSON.encode(patch))["op"] == "patch"
    assert "title" not in json.loads(JSON.encode(patch)), "not stated"
    assert isinstance(delete, ProductUpdate)
    assert delete.op == "delete"


def test_row_numbers_are_line_numbers_and_blank_lines_are_not_products(read: Read) -> None:
    rows = read("a.jsonl", f"\n{line()}\r\n\n  \nnonsense\n{line(id='B')}")
    assert [row.id if isinstance(row, ProductUpdate) else row.row for row in rows] == ["A", 5, "B"]


def test_a_byte_order_mark_does_not_hurt(read: Read) -> None:
    (row,) = read("a.jsonl", "\ufeff" + line())
    assert isinstance(row, ProductUpdate)


@pytest.mark.parametrize(
    ("content", "field", "rule"),
    [
        ("{broken", "", "is not JSON"),
        ('"A"', "", "must be one JSON object"),
        ("null", "", "must be one JSON object"),
        ('{"id": NaN}', "", "is not JSON"),
        ('{"id": "A", "title": "\\ud800"}', "", "is not JSON"),
        ('{"a":' * 5_000, "", "is not JSON"),
        ('{"id": ' + "9" * 5_000 + "}", "", "out of range"),
        (line(id=None), "id", "is missing"),
        (line(id=" "), "id", "is missing"),
        (line(id=True), "id", "must be text"),
        (line(id="A" * 129), "id", "length <= 128"),
        (line(id="A\nB"), "id", "matching regex"),
        (line(title=None), "title", "an upsert states the whole product"),
        (line(title=5), "title", "must be text"),
        (line(title="Mu\0g"), "title", "NUL"),
        (line(title="x" * 1_001), "title", "length <= 1000"),
        (line(description="x" * 50_001), "description", "length <= 50000"),
        (line(price=-1), "price.amount", "must be a finite number >= 0"),
        (line(price=1e13), "price.amount", "at most 1e12"),
        ('{"id": "A", "title": "Mug", "price": 1e99999999999999999999}', "price", "is not a price"),
        (line(price=1.999), "price", "more decimals than USD"),
        (line(price={"amount": 5, "currency": "XYZ"}), "price", "'XYZ' is not an active ISO 4217"),
        (line(price={"amount": 5, "currency": "DOLLAR"}), "price.currency", "matching regex"),
        (line(additional_image_link=["https://a/b.jpg"] * 500), "additional_image_link", "length <= 19"),
        (line(image="../../secret.jpg"), "image_link", "leads out of the feed's folder"),
        (line(image="https://a/" + "b" * 2_000), "image_link", "length <= 2000"),
        (line(availability="maybe"), "availability", "must be in_stock"),
        (line(stock="lots"), "stock", "is not a finite number"),
        (line(category=[1]), "category", "must be text"),
        (line(op="replace"), "op", "Invalid enum value 'replace'"),
        (line(version=0), "version", ">= 1"),
        (line(version=1.5), "version", "must be a whole number"),
        (line(version=9 * 10**18), "version", "far future"),
        (line(updated_at="2026-03-01"), "event_time", "more than a day ahead"),
        (line(updated_at="yesterday"), "updated_at", "is not a time"),
    ],
)
def test_a_bad_row_names_field_and_rule_and_the_next_one_is_read(
    read: Read, content: str, field: str, rule: str
) -> None:
    bad, good = read("a.jsonl", content + "\n" + line(id="next"))
    assert isinstance(bad, BadRow), bad
    assert (bad.row, bad.field) == (1, field)
    assert rule in bad.rule
    assert isinstance(good, ProductUpdate)


def test_a_byte_that_is_not_utf8_is_refused_with_its_row(read: Read) -> None:
    bad, _ = read("a.jsonl", line(title="Tisch blau").encode().replace(b"blau", b"gr\xfcn") + b"\n" + line().encode())
    assert isinstance(bad, BadRow)
    assert bad.rule.startswith("is not JSON")


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_line_up_to_the_limit_is_read_and_one_beyond_it_is_refused(read: Read, end: str) -> None:
    full = line(x="x" * (MAX_MESSAGE_BYTES - len(line(x=""))))
    assert len(full) == MAX_MESSAGE_BYTES
    first, second, third = read("a.jsonl", full + end + full[:-2] + ' "}' + end + "x" * 3 * MAX_MESSAGE_BYTES + end)
    assert isinstance(first, ProductUpdate)
    for row in (second, third):
        assert isinstance(row, BadRow)
        assert row.rule == "is longer than 1000000 bytes"


def test_the_id_shown_for_a_bad_row_is_its_own(read: Read) -> None:
    bad, *_ = read("a.jsonl", line(id="SKU-1", price=-1))
    assert isinstance(bad, BadRow)
    assert bad.product_id == "SKU-1"


def test_an_iterated_feed_needs_no_more_memory_for_more_rows(tmp_path: Any) -> None:
    """The reader holds one line at a time: after a million bytes of rows, far less than that is held."""
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(line(id=str(i), description="x" * 2_000) for i in range(1_500)))
    feed = read_feed(path, now=datetime(2026, 1, 31, tzinfo=UTC))
    next(feed)
    tracemalloc.start()
    count = sum(1 for _ in feed)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 1_499
    assert peak < 300_000

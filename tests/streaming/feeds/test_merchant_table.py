"""Google Merchant Center's delimited feed."""

from collections.abc import Callable

import pytest

from streaming.contracts import ProductUpdate
from streaming.feeds import BadRow, Row

Read = Callable[..., list[Row]]

HEADER = "id\ttitle\tdescription\timage link\tadditional image link\tprice\tavailability\tproduct type\n"


def test_a_row_with_googles_column_names_is_read(read: Read) -> None:
    images = "https://a/1.jpg\thttps://a/2.jpg,https://a/3.jpg"
    (row,) = read("a.tsv", f"{HEADER}A\tMug\tHolds tea.\t{images}\t9.99 EUR\tin stock\tKitchen > Mugs, Cups\n")
    assert isinstance(row, ProductUpdate), row
    assert (row.title, row.availability, row.product_type) == ("Mug", "in_stock", ["Kitchen > Mugs, Cups"])
    assert row.image_link == "https://a/1.jpg"
    assert row.additional_image_link == ["https://a/2.jpg", "https://a/3.jpg"]
    assert row.price
    assert (row.price.amount_minor, row.price.currency) == (999, "EUR")


def test_underscores_and_capitals_in_column_names_do_not_matter(read: Read) -> None:
    (row,) = read("a.tsv", "ID\tTitle\tImage_Link\tg:color\nA\tMug\thttps://a/1.jpg\tred\n")
    assert isinstance(row, ProductUpdate)
    assert (row.image_link, row.color) == ("https://a/1.jpg", "red")


@pytest.mark.parametrize(
    ("cells", "field", "rule"),
    [
        (b"A\tMug\t-1 USD", "price.amount", "must be a finite number >= 0"),
        (b"A\tMug\t9.99 XYZ", "price", "is not an active ISO 4217"),
        (b"A\tMug\t1,99 EUR", "price", "with a dot"),
        (b"A\tMug\t9.99", "price", "states no currency"),
        (b"A\t\t9.99 USD", "title", "needs a title"),
        (b"A\tT\xe4sse\t9.99 USD", "title", "is not valid UTF-8 (byte 0xE4); save the feed as UTF-8"),
        (b"A\tMu\x00g\t9.99 USD", "title", "NUL"),
        (b"A\tMug\t9.99 USD\tmore", "", "has 4 cells, the header has 3"),
        (b'A\t"Best" mug\t9.99 USD', "", "is not properly quoted"),
        (
            b"A\t" + b"x" * 140_000 + b"\t9.99 USD",
            "",
            "is not properly quoted (field larger than field limit (131072))",
        ),
        (b"A\t" + b"x" * 1_200_000 + b"\t9.99 USD", "", "is longer than 1000000 characters"),
    ],
)
def test_a_bad_row_names_field_and_rule_and_the_next_one_is_read(
    read: Read, cells: bytes, field: str, rule: str
) -> None:
    bad, good = read("a.tsv", b"id\ttitle\tprice\n" + cells + b"\nB\tCup\t1 USD\n")
    assert isinstance(bad, BadRow), bad
    assert (bad.row, bad.field) == (2, field)
    assert rule in bad.rule
    assert isinstance(good, ProductUpdate)
    assert good.id == "B"

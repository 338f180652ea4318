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


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_excels_encodings_are_read(read: Read, encoding: str) -> None:
    text = "id\ttitle\nÄ1\tTasse – grün\n"
    mark = {"utf-16-le": "\ufeff", "utf-16-be": "\ufeff"}.get(encoding, "")
    (row,) = read("a.tsv", (mark + text).encode(encoding))
    assert isinstance(row, ProductUpdate)
    assert (row.id, row.title) == ("Ä1", "Tasse – grün")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_all_line_ends_are_understood(read: Read, end: str) -> None:
    rows = read("a.tsv", end.join(["id\ttitle", "A\tMug", "B\tCup"]))
    assert [row.id for row in rows if isinstance(row, ProductUpdate)] == ["A", "B"]


def test_a_quoted_cell_may_hold_delimiters_quotes_and_line_ends(read: Read) -> None:
    rows = read("a.csv", 'id,title,description\nA,"Mug, 8""","Holds tea.\nAnd\ncoffee."\nB,Pipe 5" wide,x\n,No id,\n')
    assert isinstance(rows[0], ProductUpdate)
    assert (rows[0].title, rows[0].description) == ('Mug, 8"', "Holds tea.\nAnd\ncoffee.")
    assert isinstance(rows[1], ProductUpdate)
    assert rows[1].title == 'Pipe 5" wide'
    assert isinstance(rows[2], BadRow)
    assert rows[2].row == 4, "rows are counted as a spreadsheet shows them, not as lines"


def test_blank_rows_count_but_are_no_products(read: Read) -> None:
    rows = read("a.tsv", "id\ttitle\n\nA\tMug\n\t\n\tNo id\n")
    assert [row.row if isinstance(row, BadRow) else row.id for row in rows] == ["A", 5]


def test_empty_cells_and_cells_left_out_at_the_end_are_not_stated(read: Read) -> None:
    rows = read("a.tsv", "id\ttitle\tcolor\tbrand\nA\tMug\t\tKiln\nB\tCup\n")
    assert isinstance(rows[0], ProductUpdate)
    assert rows[0].brand == "Kiln"
    assert all(isinstance(row, ProductUpdate) and not row.color for row in rows)


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


def test_a_quote_that_never_closes_says_which_lines_it_swallowed(read: Read) -> None:
    first, bad = read("a.tsv", 'id\ttitle\nA\tMug\nB\t"Cup\nC\tPot\nD\tPan\n')
    assert isinstance(first, ProductUpdate)
    assert isinstance(bad, BadRow)
    assert bad.row == 3
    assert "lines 3 to 5 of the file are lost to it" in bad.rule


def test_a_quote_that_never_closes_in_a_large_file_costs_a_bounded_part_of_it(read: Read) -> None:
    rows = read("a.tsv", 'id\ttitle\nB\t"Cup\n' + "".join(f"{i}\t{'x' * 90}\n" for i in range(3_000)))
    bad = [row for row in rows if isinstance(row, BadRow)]
    assert len(bad) == 1
    assert "lines 2 to" in bad[0].rule
    assert len(rows) > 1_500, "what follows is read again"

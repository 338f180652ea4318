"""Delimited text: encodings, line ends, quotes and rows that are too short."""

from collections.abc import Callable

import pytest

from streaming.contracts import ProductUpdate
from streaming.feeds import BadRow, Row

Read = Callable[..., list[Row]]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_excels_encodings_are_read(read: Read, encoding: str) -> None:
    text = "id\ttitle\nÄ1\tTasse – grün\n"
    mark = {"utf-16-le": "\ufeff", "utf-16-be": "\ufeff"}.get(encoding, "")
    (row,) = read("a.tsv", (mark + text).encode(encoding))
    assert isinstance(row, ProductUpdate)
    assert (row.id, row.title) == ("Ä1", "Tasse – grün")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_all_line_ends_are_read(read: Read, end: str) -> None:
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


def test_blank_rows_count_but_are_not_products(read: Read) -> None:
    rows = read("a.tsv", "id\ttitle\n\nA\tMug\n\t\n\tNo id\n")
    assert [row.row if isinstance(row, BadRow) else row.id for row in rows] == ["A", 5]


def test_empty_cells_and_cells_left_out_at_the_end_are_not_stated(read: Read) -> None:
    rows = read("a.tsv", "id\ttitle\tcolor\tbrand\nA\tMug\t\tKiln\nB\tCup\n")
    assert isinstance(rows[0], ProductUpdate)
    assert rows[0].brand == "Kiln"
    assert all(isinstance(row, ProductUpdate) and not row.color for row in rows)


def test_a_quote_that_never_closes_says_which_lines_it_swallowed(read: Read) -> None:
    first, bad = read("a.tsv", 'id\ttitle\nA\tMug\nB\t"Cup\nC\tPot\nD\tPan\n')
    assert isinstance(first, ProductUpdate)
    assert isinstance(bad, BadRow)
    assert bad.row == 3
    assert "lines 3 to 5 of the file cannot be used" in bad.rule


def test_a_quote_that_never_closes_in_a_large_file_costs_a_bounded_part_of_it(read: Read) -> None:
    rows = read("a.tsv", 'id\ttitle\nB\t"Cup\n' + "".join(f"{i}\t{'x' * 90}\n" for i in range(3_000)))
    bad = [row for row in rows if isinstance(row, BadRow)]
    assert len(bad) == 1
    assert "lines 2 to" in bad[0].rule
    assert len(rows) > 1_500, "what follows is read again"

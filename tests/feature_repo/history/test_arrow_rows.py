"""History columns become the same bytes that the store writes online for these products."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from feature_repo import definitions, views
from feature_repo.errors import HistoryError
from feature_repo.history.arrow_rows import content_checksum, online_rows
from feature_repo.history.writer import history_schema
from feature_repo.rows import Deletion
from tests.feature_repo.builders import NOON, make_embedding, make_product

HOME = Path("/nowhere")
VIEWS = {view.name: view for view in [*definitions.product_views(HOME), definitions.embedding_view(HOME, "m1")]}


def both_ways(name: str, rows: list[Any]) -> tuple[list[Any], list[Any]]:
    form = views.format_of(name)
    table = views.history_table(form, history_schema(form.types), rows, NOON)
    direct = [views.online_row(form, row) for row in rows]
    return online_rows(table, VIEWS[name]), [row._replace(values=tuple(row.values)) for row in direct]


@pytest.mark.parametrize("name", definitions.PRODUCT_VIEWS)
def test_products_of_every_kind_become_the_bytes_of_the_direct_write(name: str) -> None:
    rows = [
        make_product("a", 1),
        make_product("b", 2**63 - 1, images=0, currency=None, amount_minor=None, availability=None),
        Deletion(id="c", version=3, event_time=NOON),
        make_product("Ł\0" + "x" * 300, 4, images=20, amount_minor=-(2**63)),
        make_product("e", 0, images=1, text=dict.fromkeys(make_product().text, "")),
    ]
    result, expected = both_ways(name, rows)
    assert result == expected


def test_embeddings_become_the_bytes_of_the_direct_write() -> None:
    rows = [Deletion(id="x", version=1, event_time=NOON), make_embedding("a"), make_embedding("b", 7)]
    result, expected = both_ways("product_embedding_m1", rows)
    assert result == expected


def test_a_slice_of_a_larger_table_is_read_from_its_own_offset() -> None:
    for name, row in (("product_images", make_product), ("product_embedding_m1", make_embedding)):
        form = views.format_of(name)
        rows = [row(f"p{i}") for i in range(9)]
        table = views.history_table(form, history_schema(form.types), rows, NOON)
        whole = online_rows(table, VIEWS[name])
        assert online_rows(table.slice(4, 3), VIEWS[name]) == whole[4:7]


def test_only_tombstones_and_no_rows_at_all() -> None:
    result, expected = both_ways("product_embedding_m1", [Deletion(id="x", version=1, event_time=NOON)])
    assert result == expected
    schema = history_schema(views.EMBEDDING_FORMAT.types)
    assert online_rows(schema.empty_table(), VIEWS["product_embedding_m1"]) == []


@pytest.mark.parametrize("length", [0, 255, 257])
def test_a_vector_of_another_length_is_refused_by_product(length: int) -> None:
    form = views.EMBEDDING_FORMAT
    schema = history_schema(form.types)
    table = views.history_table(form, schema, [make_embedding("good"), make_embedding("bad")], NOON)
    vectors = pa.array([[0.0] * 256, np.zeros(length).tolist()], pa.list_(pa.float32()))
    table = table.set_column(table.schema.get_field_index("vector"), schema.field("vector"), vectors)
    with pytest.raises(HistoryError, match=rf"'bad' has a vector of {length} numbers in the history, not 256 \(1 such"):
        online_rows(table, VIEWS["product_embedding_m1"])


def test_rows_with_another_key_value_or_null_have_another_checksum() -> None:
    (row, other), _ = both_ways("product_offer", [make_product("a"), make_product("b")])
    values = tuple(row.values)
    variants = [row, other, row._replace(values=(None, *values[1:])), row._replace(values=values[::-1])]
    assert len({content_checksum(variant) for variant in variants}) == len(variants)
    assert content_checksum(row) == content_checksum(row._replace(version=9, event_us=1))

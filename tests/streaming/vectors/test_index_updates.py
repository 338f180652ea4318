"""Records change the index; invalid records are skipped."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from inference.retrieval import Filter, RetrievalIndex
from streaming.contracts import ProductVector
from streaming.kafka.codec import JSON
from streaming.vectors.index_updates import IndexUpdater
from tests.streaming.builders import Record, vector_of
from tests.streaming.vectors.builders import found_ids, offer_record, tombstone_record, vector_message, vector_record


def on_embeddings(*records: tuple[Any, ...]) -> list[Record]:
    return [Record("product.embeddings", 0, n, 0, *record) for n, record in enumerate(records)]


def on_offers(*records: tuple[Any, ...]) -> list[Record]:
    return [Record("product.offers", 0, n, 0, *record) for n, record in enumerate(records)]


def index_of(*batches: list[Record], serving: bool = False) -> RetrievalIndex:
    index = RetrievalIndex("1")
    for batch in batches:
        IndexUpdater(index, JSON).apply(batch, serving=serving)
    return index


def with_vector(message: ProductVector, vector: np.ndarray) -> ProductVector:
    return msgspec.structs.replace(message, vector=ProductVector.pack(vector))


BAD_RECORDS = [
    (None, b"{}", []),
    (b"\xff/a", b"{}", []),
    (b"1/a", b"{", []),
    (b"1/a", None, []),
    (b"1/a", None, [("sagelift-version", b"seven")]),
    (b"1/other", JSON.encode(vector_message("a", 1)), []),
    (b"1/a", JSON.encode(vector_message("a", 1, "2")), []),
    (b"1/a", JSON.encode(vector_message("a", 1)).replace(b'"vector":"', b'"vector":"!'), []),
    (
        b"1/a",
        JSON.encode(with_vector(vector_message("a", 1), np.zeros(256))),
        [],
    ),
    (
        b"1/a",
        JSON.encode(with_vector(vector_message("a", 1), np.full(256, np.nan))),
        [],
    ),
]


@pytest.mark.parametrize("bad", BAD_RECORDS, ids=str)
def test_an_invalid_vector_is_skipped(bad: tuple[Any, ...]) -> None:
    index = index_of(on_embeddings(bad, vector_record("z", 1, vector_message("z", 1))))
    assert ("z" in index, "a" in index) == (True, False)


BAD_OFFERS = [
    (None, None, []),
    (b"a", None, []),
    (b"a", b"{", []),
    (b"a", b'{"id": "a"}', []),
    (b"a", b'{"id":"a","version":1,"source_time":1,"amount_minor":"x"}', []),
    (b"b", *offer_record("a", 1, 500, availability="in_stock")[1:]),
]


@pytest.mark.parametrize("bad", BAD_OFFERS, ids=str)
def test_an_invalid_offer_is_skipped(bad: tuple[Any, ...]) -> None:
    vectors = on_embeddings(*(vector_record(id, 1, vector_message(id, 1)) for id in "abz"))
    index = index_of(vectors, on_offers(bad, offer_record("z", 1, 5, availability="in_stock")))
    assert found_ids(index, Filter(in_stock=True)) == {"z"}


def test_the_newest_record_of_a_batch_counts_in_any_order() -> None:
    versions = [vector_record("a", n, vector_message("a", n)) for n in (2, 3, 1)]
    deleted = vector_record("b", 1, vector_message("b", 1)), vector_record("b", 2, None)
    index = index_of(on_embeddings(*versions, *deleted))
    np.testing.assert_allclose(index.vectors(["a"])["a"], vector_of("a", 3), atol=2e-3)
    assert "b" not in index


def test_accepted_changes_are_reported_with_their_age_also_when_delivered_again_but_older_ones_are_not() -> None:
    index, vectors, offers = RetrievalIndex("1"), list[tuple[str, float]](), list[tuple[str, float]]()
    updater = IndexUpdater(
        index, JSON, lambda *change: vectors.append(change), lambda *change: offers.append(change), lambda: 3.0
    )
    for _ in range(2):
        updater.apply(on_embeddings(vector_record("a", 2, vector_message("a", 2))), serving=True)
        updater.apply(on_offers(offer_record("a", 2, 5)), serving=True)
    updater.apply(on_embeddings(vector_record("a", 1, vector_message("a", 1))), serving=True)
    updater.apply(on_offers(offer_record("a", 1, 4), tombstone_record("a", 3)), serving=True)
    assert vectors == [("a", 2000.0)] * 2
    assert offers == [("a", 2000.0)] * 2


@pytest.mark.parametrize("serving", [False, True])
def test_a_new_vector_is_found_at_once(serving: bool) -> None:
    """While the index serves requests, its vectors wait to be linked, and searches find them all the same."""
    index = index_of(on_embeddings(vector_record("a", 1, vector_message("a", 1))), serving=serving)
    assert bool(index.unlinked) == serving
    assert index.search(vector_of("a", 1)[None], 1)[0].ids == ["a"]

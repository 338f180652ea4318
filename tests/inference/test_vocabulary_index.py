"""The look-up of ids: hash tables, hashes of spans, trigrams."""

from __future__ import annotations

import numpy as np
import pytest

from inference.vocabulary_index import HashTable, SpanHashes, TrigramIndex, code_points, token_hashes


def test_a_table_finds_every_key_even_if_many_share_a_slot() -> None:
    keys = np.arange(5_000, dtype=np.uint64) << np.uint64(40)  # alike in the bits that name a slot
    ids = np.arange(5_000, dtype=np.int32)
    table = HashTable(keys, ids)
    np.testing.assert_array_equal(table.find(keys[::-1]), ids[::-1])
    assert (table.find(keys + np.uint64(1)) == -1).all()
    assert (HashTable(keys[:0], ids[:0]).find(keys) == -1).all()


def test_a_token_has_the_hash_of_its_span_in_a_text() -> None:
    tokens = ["red", "shoe", "red#shoe", "靴"]
    text = "a red shoe 靴"
    hashes = SpanHashes(code_points(text))
    starts = np.array([text.index(token.replace("#", " ")) for token in tokens])
    ends = starts + np.array([len(token) for token in tokens])
    np.testing.assert_array_equal(hashes.of(starts, ends), token_hashes(tokens))
    assert len(token_hashes([])) == 0


@pytest.mark.parametrize("characters", [5, 90], ids=["frequent characters only", "rare characters too"])
def test_exactly_the_trigrams_of_the_vocabulary_are_found(characters: int) -> None:
    alphabet = [chr(0x61 + n) for n in range(characters)]
    trigrams = ["".join((a, b, "#")) for a in alphabet for b in alphabet]
    index = TrigramIndex(trigrams[::2], first=100)
    for number, trigram in enumerate(trigrams):
        (result,) = index.find(code_points(trigram.replace("#", " ")))
        assert result == (-1 if number % 2 else 100 + number // 2)

"""Search texts to vectors, and recent histories to interests."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from inference.errors import ArtifactError
from inference.queries import SearchEncoder, SearchQueries, flatten_bags, interests
from inference.tokenizer import Tokenizer
from tests.inference.builders import unit


@pytest.fixture
def search() -> SearchQueries:
    torch.manual_seed(0)
    tokenizer = Tokenizer.fit([{"title": "red shoe"}, {"title": "blue lamp"}])
    return SearchQueries(SearchEncoder(tokenizer.size, 53, hidden=16), tokenizer)


def test_texts_become_unit_vectors_that_do_not_depend_on_the_batch(search: SearchQueries) -> None:
    texts = ["red shoe", "lamp", "xyzzy", "", "blue blue"]
    together = search(texts)
    assert together.shape == (5, 256)
    assert together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), [1, 1, 0, 0, 1], atol=1e-6)
    for row, text in enumerate(texts):
        np.testing.assert_allclose(search([text])[0], together[row], atol=1e-6)
    np.testing.assert_allclose(search(["RED  shoe!"])[0], together[0], atol=1e-6)


def test_no_texts_no_vectors(search: SearchQueries) -> None:
    assert search([]).shape == (0, 256)


def test_bags_become_flat_ids_and_offsets() -> None:
    ids, offsets = flatten_bags([[], [4, 5], [], [6]])
    assert ids.tolist() == [4, 5, 6]
    assert offsets.tolist() == [0, 0, 2, 2]


def test_a_saved_encoder_reads_back_as_the_same(search: SearchQueries, tmp_path: Path) -> None:
    search.tokenizer.save(tmp_path / "tokenizer.json")
    files = search.save(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["search.json", "search.safetensors", "tokenizer.json"]
    assert {p.name for p in files} == {"search.json", "search.safetensors"}
    np.testing.assert_array_equal(SearchQueries.load(tmp_path)(["red lamp"]), search(["red lamp"]))


def test_a_damaged_encoder_is_refused(search: SearchQueries, tmp_path: Path) -> None:
    search.tokenizer.save(tmp_path / "tokenizer.json")
    weights, shape = search.save(tmp_path)
    whole, sizes = weights.read_bytes(), shape.read_text()
    for broken in (whole[:-50], b""):
        weights.write_bytes(broken)
        with pytest.raises(ArtifactError, match="cannot be loaded"):
            SearchQueries.load(tmp_path)
    weights.write_bytes(whole)
    for other in ("{", json.dumps(json.loads(sizes) | {"hidden": 17}), json.dumps({"depth": 3})):
        shape.write_text(other)
        with pytest.raises(ArtifactError, match="cannot be loaded"):
            SearchQueries.load(tmp_path)
    shape.unlink()
    with pytest.raises(ArtifactError, match="cannot be loaded"):
        SearchQueries.load(tmp_path)


def test_an_encoder_beside_another_vocabulary_is_refused(search: SearchQueries, tmp_path: Path) -> None:
    search.save(tmp_path)
    Tokenizer.fit([{"title": "another corpus altogether"}]).save(tmp_path / "tokenizer.json")
    with pytest.raises(ArtifactError, match="belong to different models"):
        SearchQueries.load(tmp_path)


def around(centre: np.ndarray, count: int, seed: int) -> np.ndarray:
    vectors = centre + 0.3 * unit(np.random.default_rng(seed), count)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_each_group_of_a_history_is_one_interest_the_latest_first() -> None:
    centres = np.eye(3, 256, dtype=np.float32)
    group = np.array([0, 1, 0, 2, 1, 0, 2, 1])
    history = np.stack([around(centres[g], 1, seed)[0] for seed, g in enumerate(group)])
    products = interests(history)
    assert [int(group[i]) for i in products] == [1, 2, 0]
    for row in products:  # a medoid: no other of its group is closer to all of its group
        members = np.flatnonzero(group == group[row])
        gaps = [np.linalg.norm(history[members] - history[m], axis=1).sum() for m in members]
        assert np.linalg.norm(history[members] - history[row], axis=1).sum() == pytest.approx(min(gaps))


def test_one_taste_is_one_interest_and_many_tastes_are_limited() -> None:
    assert len(interests(around(np.eye(1, 256, dtype=np.float32)[0], 10, 1))) == 1
    many = np.eye(8, 256, dtype=np.float32)
    assert len(interests(many, most=3)) == 3
    assert sorted(interests(many, most=9)) == list(range(8))


def test_short_and_repetitive_histories() -> None:
    one = unit(np.random.default_rng(0), 1)
    assert interests(one[:0]) == []
    assert interests(one) == [0]
    assert len(interests(np.repeat(one, 5, axis=0))) == 1
    assert interests(np.stack([one[0], -one[0]])) == [1, 0]

"""The training set: built from catalogue and engagements, and read back from disk as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from inference.errors import ArtifactError, InputError
from inference.tokenizer import Tokenizer
from inference.training.dataset import TrainingSet
from inference.training.engagements import Engagement
from inference.training.packed import PackedProducts
from inference.training.pairs import Pairs
from tests.inference.builders import catalogue, engagements
from tests.inference.training.configs import FEW_STEPS


def test_the_training_set_reads_back_as_it_was_written(tmp_path: Path) -> None:
    products = catalogue(3)
    tokenizer = Tokenizer.fit([p.text for p in products])
    packed = PackedProducts(products, tokenizer)
    log = [*engagements(3), Engagement("search", "half a pair \ud800", "lamp-1", "click", 3)]
    pairs = Pairs(log, packed, 0.3)
    TrainingSet(tokenizer, packed, pairs).save(tmp_path)
    _, loaded, again = TrainingSet.load(tmp_path, tokenizer)
    rows = np.array([3, 0, 14, 3])
    for got, want in zip(loaded.batch(rows), packed.batch(rows), strict=True):
        assert torch.equal(got, want)
    assert (loaded.ids, loaded.vocabulary) == (packed.ids, packed.vocabulary)
    for name in ("query", "product", "task", "count", "held_out", "query_product"):
        np.testing.assert_array_equal(getattr(again, name), getattr(pairs, name))
    assert again.tasks == pairs.tasks
    assert again.queries == [(k, t.replace("\ud800", "?")) for k, t in pairs.queries]


def test_a_training_set_of_another_tokenizer_is_refused(tmp_path: Path) -> None:
    data = TrainingSet.build(catalogue(3), engagements(3), FEW_STEPS)
    data.save(tmp_path)
    other = Tokenizer.fit([{"title": "lamp"}])
    with pytest.raises(ArtifactError, match=f"has {data.tokenizer.size} ids, the tokenizer {other.size}"):
        TrainingSet.load(tmp_path, other)


def test_the_vocabulary_also_has_the_words_of_searches() -> None:
    log = [*engagements(), Engagement("search", "xyzzy", "lamp-1", "click")]
    assert TrainingSet.build(catalogue(), log, FEW_STEPS).tokenizer.ids("xyzzy")
    with pytest.raises(InputError, match="no product to train on"):
        TrainingSet.build([], log, FEW_STEPS)

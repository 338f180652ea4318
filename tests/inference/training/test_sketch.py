"""The count-min sketch against exact counts."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from inference.errors import InputError
from inference.training.sketch import CountMinSketch


def heavy_tailed(rng: np.random.Generator, number: int) -> np.ndarray:
    return rng.zipf(1.3, number).clip(max=10**9).astype(np.int64) * 1_000_003


def test_never_below_the_true_count_and_rarely_above_it_by_more_than_the_bound() -> None:
    keys = heavy_tailed(np.random.default_rng(0), 50_000)
    for depth in (1, 2, 4):
        sketch = CountMinSketch(256, depth)
        for part in np.array_split(keys, 7):
            sketch.add(part)
        exact = Counter(keys.tolist())
        distinct = np.array(list(exact))
        over = sketch.count(distinct) - np.array([exact[k] for k in distinct.tolist()])
        assert over.min() >= 0
        assert (over > 2 * sketch.total / 256).mean() <= 2.0**-depth
        if depth == 1:
            assert over.max() > 0, "else the bound was not seen at work"


def test_wide_enough_it_is_exact_and_a_stranger_counts_nothing() -> None:
    keys = np.random.default_rng(1).integers(-(2**62), 2**62, 500)
    sketch = CountMinSketch.for_keys(500)
    sketch.add(np.repeat(keys, 3))
    assert sketch.count(keys).tolist() == [3] * 500
    assert sketch.total == 1500
    np.testing.assert_allclose(sketch.log_share(keys), np.log(3 / 1500))
    strangers = np.arange(500)
    assert sketch.count(strangers).sum() <= 3
    assert sketch.log_share(strangers[:1]) == pytest.approx(-np.log(1500))


def test_its_size_follows_the_keys_up_to_a_limit() -> None:
    assert CountMinSketch.for_keys(10).table.shape == (4, 4096)
    assert CountMinSketch.for_keys(100_000).table.shape == (4, 2**20)
    assert CountMinSketch.for_keys(10**9).table.nbytes == 128 * 2**20


def test_equal_seeds_place_keys_equally_and_other_seeds_elsewhere() -> None:
    keys = np.arange(100)
    tables = []
    for seed in (1, 1, 2):
        sketch = CountMinSketch(1024, seed=seed)
        sketch.add(keys)
        tables.append(sketch.table)
    np.testing.assert_array_equal(tables[0], tables[1])
    assert (tables[0] != tables[2]).any()


@pytest.mark.parametrize(("width", "depth"), [(0, 4), (100, 4), (1, 4), (64, 0)])
def test_impossible_sizes_are_refused(width: int, depth: int) -> None:
    with pytest.raises(InputError, match="power of two"):
        CountMinSketch(width, depth)

"""Grouping products of similar size into requests."""

from __future__ import annotations

import numpy as np

from inference.triton.batching import group_by_size


def test_groups_have_every_row_once_similar_counts_together_and_are_not_tiny() -> None:
    counts = np.random.default_rng(0).integers(0, 21, 700).astype(np.int32)
    groups = list(group_by_size(counts, 256))
    assert sorted(np.concatenate(groups).tolist()) == list(range(700))
    assert all(len(group) <= 256 for group in groups)
    assert all(len(group) >= 32 for group in groups[:-1])
    slots = sum(len(group) * max(1, counts[group].max()) for group in groups)
    assert slots < 1.25 * counts.sum()


def test_few_products_are_one_request_also_with_different_numbers_of_images() -> None:
    assert len(list(group_by_size(np.array([0, 1, 20, 5], np.int32), 256))) == 1
    assert list(group_by_size(np.array([], np.int32), 256)) == []


def test_within_a_number_of_images_products_are_sorted_by_length() -> None:
    rng = np.random.default_rng(0)
    counts, tokens = rng.integers(0, 3, 1_000).astype(np.int32), rng.integers(1, 600, 1_000).astype(np.int32)
    groups = list(group_by_size(counts, 64, tokens))
    assert sorted(np.concatenate(groups)) == list(range(1_000))
    assert all((np.diff(tokens[g][counts[g] == n]) >= 0).all() for g in groups for n in range(3))

    def padded(groups: list[np.ndarray]) -> int:
        return sum(len(g) * int(tokens[g].max()) for g in groups)

    assert padded(groups) < 0.7 * padded(list(group_by_size(counts, 64)))

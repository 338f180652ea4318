"""The canary set compares model versions that are equal, rotated, or unrelated."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from feature_repo.errors import InvalidFeatureError, UnknownModelVersionError
from feature_repo.monitoring.canary import CanaryLimits, choose, compare, drift, findings
from feature_repo.rows import Deletion
from feature_repo.store import ProductFeatureStore
from tests.feature_repo.builders import NOON, make_embedding

DIM = 64


def vectors(seed: int, number: int = 300) -> dict[str, NDArray[np.float32]]:
    rows = np.random.default_rng(seed).normal(size=(number, DIM)).astype(np.float32) + 0.5
    return {f"p{n}": row for n, row in enumerate(rows)}


def turned(rows: dict[str, Any]) -> dict[str, Any]:
    """All vectors have the same rotation: the space is another, the neighbours are the same."""
    rotation = np.linalg.qr(np.random.default_rng(9).normal(size=(DIM, DIM)))[0].astype(np.float32)
    return {id: row @ rotation for id, row in rows.items()}


def compared(before: Any, after: Any) -> Any:
    return drift(before, after, old="m1", new="m2", asked=300)


def test_the_same_vectors_drift_by_nothing() -> None:
    same = compared(vectors(1), vectors(1))
    assert same.centroid_shift == pytest.approx(0, abs=1e-6)
    assert (same.overlap, same.overlap_p10, same.moved) == (1.0, 1.0, [])
    assert same.similarities == [0] * 19 + [300]
    assert same.overlaps == [0] * 10 + [300]
    assert (same.products, same.without_vector) == (300, 0)


def test_a_rotation_moves_the_centroid_and_no_neighbour() -> None:
    other = compared(vectors(1), turned(vectors(1)))
    assert other.centroid_shift > 0.2
    assert other.overlap > 0.99
    assert other.old_concentration == pytest.approx(other.new_concentration, abs=1e-5)


def test_unrelated_models_share_neighbours_by_chance_only() -> None:
    other = compared(vectors(1), vectors(2))
    assert other.overlap == pytest.approx(other.overlap_by_chance, abs=0.02)
    assert other.overlap_by_chance == pytest.approx(10 / 299)
    assert len(other.moved) == 10
    assert sum(other.overlaps) == sum(other.similarities) == len(other.map) == 300


def test_a_product_that_moved_is_named_with_its_neighbours_before_and_after() -> None:
    before, after = vectors(1), vectors(1)
    after["p7"] = -after["p7"]
    moved_products = {moved.product: moved for moved in compared(before, after).moved}
    assert moved_products["p7"].overlap < 0.5
    cosine = {
        id: float(row @ before["p7"] / np.linalg.norm(row) / np.linalg.norm(before["p7"])) for id, row in before.items()
    }
    ranked = sorted((id for id in before if id != "p7"), key=lambda id: -cosine[id])
    assert moved_products["p7"].before == ranked[:10]
    assert moved_products["p7"].after == ranked[::-1][:10]


def test_models_of_different_lengths_are_compared_by_neighbours_alone() -> None:
    before = vectors(1)
    other = compared(before, {id: np.concatenate([row, np.zeros(8, np.float32)]) for id, row in before.items()})
    assert other.overlap == 1.0
    assert (other.similarities, other.map) == ([], [])


def test_too_few_products_in_both_are_an_error_that_says_so() -> None:
    with pytest.raises(InvalidFeatureError, match="11 of the canary's 300 products"):
        compared(vectors(1), vectors(1, 11))


def test_the_set_stays_as_the_catalogue_changes() -> None:
    ids = [f"p{n}" for n in range(5000)]
    first = choose(ids, 100)
    assert len(first) == 100
    assert first == choose(reversed(ids), 100)
    assert set(first) - set(choose(ids[500:], 100)) <= set(ids[:500])
    assert len(set(first) & set(choose([*ids, *(f"new{n}" for n in range(50))], 100))) >= 95


@pytest.mark.parametrize(
    ("limits", "sentences"),
    [
        (CanaryLimits(), []),
        (CanaryLimits(max_centroid_shift=0.25, min_overlap=0.5), []),
        (CanaryLimits(max_centroid_shift=0.2), ["m1 to m2: the centroid moved by 0.250, over 0.2"]),
        (CanaryLimits(min_overlap=0.6), ["m1 to m2: products keep 50.0% of their 10 nearest neighbors, under 60.0%"]),
    ],
)
def test_limits_are_passed_only_beyond_them(limits: CanaryLimits, sentences: list[str]) -> None:
    shifted = msgspec.structs.replace(compared(vectors(1), vectors(1)), centroid_shift=0.25, overlap=0.5)
    assert findings(shifted, limits) == sentences


def test_a_canary_compares_live_products_of_both_versions(store: ProductFeatureStore) -> None:
    for model, version in (("m1", 1), ("m2", 2)):
        store.ensure_model_version(model)
        store.write_embeddings(model, [make_embedding(f"p{n}", version, model) for n in range(20)])
    store.delete([Deletion(id="p3", version=9, event_time=NOON)])
    drifted = compare(store, "m1", "m2", [f"p{n}" for n in range(25)])
    assert (drifted.products, drifted.without_vector) == (19, 6)
    with pytest.raises(UnknownModelVersionError, match="m3"):
        compare(store, "m1", "m3")
    with pytest.raises(InvalidFeatureError, match="0 of the canary's 0 products"):
        compare(store, "m1", "m2")  # no product has features

"""Mixing the candidates of several interests into one list."""

from __future__ import annotations

import numpy as np
import pytest

from inference.errors import InputError
from inference.mixing import Interest, Mixing, mix
from inference.retrieval import Candidates
from tests.inference.builders import unit


@pytest.mark.parametrize(
    ("weights", "places"),
    [((1, 1, 1), (4, 4, 4)), ((2, 1, 1), (6, 3, 3)), ((10, 1, 1), (10, 1, 1)), ((1, 0, 1), (6, 0, 6))],
)
def test_places_are_apportioned_by_weight(weights: tuple[float, ...], places: tuple[int, ...]) -> None:
    some = [
        Interest(name, Candidates([f"{name}{i}" for i in range(20)], [1.0] * 20), weight)
        for name, weight in zip("abc", weights, strict=True)
    ]
    ids, sources = mix(some, [], 12)
    assert tuple(sources.count(name) for name in "abc") == places
    assert ids == [f"{s}{sources[:i].count(s)}" for i, s in enumerate(sources)]


def test_diversity_is_maximal_marginal_relevance() -> None:
    """Against the definition, spelled out: the best of (1 - d) score - d times the greatest cosine to what is there."""
    rng = np.random.default_rng(2)
    vectors = {f"p{i}": v for i, v in enumerate(unit(rng, 30))}
    scores = {name: float(s) for name, s in zip(vectors, np.sort(rng.uniform(size=30))[::-1], strict=True)}
    expected: list[str] = []
    while len(expected) < 12:

        def marginal(name: str) -> float:
            closest = max((float(vectors[name] @ vectors[e]) for e in expected), default=-1.0)
            return 0.7 * scores[name] - 0.3 * closest

        expected.append(max((n for n in vectors if n not in expected and n != "p3"), key=marginal))
    some = [Interest("q", Candidates(list(scores), list(scores.values())))]
    assert mix(some, ["p3"], 12, diversity=0.3, vectors=vectors)[0] == expected
    assert expected != [n for n in scores if n != "p3"][:12]


def test_diversity_compares_across_interests_and_skips_removed_products() -> None:
    a, b, c, _ = unit(np.random.default_rng(3), 4)
    vectors = {"a": a, "twin": a, "b": b, "c": c}
    some = [
        Interest("x", Candidates(["a"], [0.9])),
        Interest("y", Candidates(["gone", "twin", "b", "c"], [0.9, 0.8, 0.7, 0.1])),
    ]
    assert mix(some, [], 2, vectors=vectors, diversity=0.5) == (["a", "b"], ["x", "y"])
    assert mix(some, [], 9, vectors=vectors, diversity=0.5)[0] == ["a", "b", "c", "twin"]
    assert mix(some, [], 2)[0] == ["a", "gone"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"half_life": 0.0}, r"half_life \(0.0\) must be above 0"),
        ({"half_life": float("nan")}, "must be above 0"),
        ({"diversity": 1.5}, r"diversity \(1.5\) must be between 0 and 1"),
        ({"diversity": -0.1}, "must be between 0 and 1"),
    ],
)
def test_invalid_mixing_options_are_refused(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Mixing(**wrong)

"""Every outline lies in the unit square, closes an area, and repeats with the same random numbers."""

from __future__ import annotations

from random import Random

import pytest

from sagelift.demo.outlines import OUTLINES, Polygon

ROLES = {"body", "trim", "shade", "light", "dark"}


def area(polygon: Polygon) -> float:
    following = [*polygon[1:], polygon[0]]
    return abs(sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in zip(polygon, following, strict=True))) / 2


@pytest.mark.parametrize("kind", sorted(OUTLINES))
def test_every_part_has_a_known_role_and_an_area_inside_the_picture(kind: str) -> None:
    for seed in range(20):
        parts = OUTLINES[kind](Random(seed))
        assert any(role == "body" for role, _ in parts)
        for role, polygon in parts:
            assert role in ROLES
            assert len(polygon) >= 3
            assert area(polygon) > 1e-4
            assert all(-0.05 <= number <= 1.05 for point in polygon for number in point), (seed, role)


@pytest.mark.parametrize("kind", sorted(OUTLINES))
def test_the_same_random_numbers_give_the_same_drawing(kind: str) -> None:
    assert OUTLINES[kind](Random(7)) == OUTLINES[kind](Random(7))

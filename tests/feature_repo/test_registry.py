from __future__ import annotations

import pytest

from feature_repo.registry import definitions_order


@pytest.mark.parametrize(
    ("applied", "replaced"),
    [
        ({}, True),  # nothing is known of who applied them
        ({"definitions_version": "1", "feast_version": "99.0"}, True),
        ({"definitions_version": "2", "feast_version": "0.9.1"}, True),
        ({"definitions_version": "2", "feast_version": "0.67.0"}, True),  # the same, changed during development
        ({"definitions_version": "2", "feast_version": "0.100.0"}, False),
        ({"definitions_version": "10", "feast_version": "0.1"}, False),
    ],
)
def test_definitions_are_ordered_by_their_version_then_by_feasts(applied: dict[str, str], replaced: bool) -> None:
    tags = {"definitions_version": "2", "feast_version": "0.67.0"}
    assert (definitions_order(applied) <= definitions_order(tags)) is replaced

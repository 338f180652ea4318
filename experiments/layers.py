"""Layers in a list: which parts live experiments hold, and which parts are free.

A layer must exist before an experiment may name it. Otherwise a misspelt name would be a new layer, and two experiments
that must not overlap would overlap. The experiment's config has the part of the layer that the experiment holds.
"""

from collections.abc import Iterable

import msgspec

from experiments.kernel import BUCKETS


class Held(msgspec.Struct, frozen=True):
    """The part [start, end) of a layer that a live experiment holds."""

    experiment: str
    start: int
    end: int


class LayerSummary(msgspec.Struct, frozen=True):
    """A layer, and who holds which part of it.

    Attributes:
        key: Name of the layer.
        description: Text for people.
        created_at: Time in microseconds UTC.
        created_by: Who created it.
        held: Parts that live experiments hold, sorted.
        free: Parts [start, end) that no experiment holds, sorted.
    """

    key: str
    description: str
    created_at: int
    created_by: str
    held: tuple[Held, ...] = ()
    free: tuple[tuple[int, int], ...] = ((0, BUCKETS),)


def free_parts(held: Iterable[Held]) -> tuple[tuple[int, int], ...]:
    """Return the parts of [0, 10,000) that no part of `held` covers, sorted."""
    free, at = [], 0
    for part in sorted(held, key=lambda part: part.start):
        if part.start > at:
            free.append((at, part.start))
        at = max(at, part.end)
    return (*free, (at, BUCKETS)) if at < BUCKETS else tuple(free)

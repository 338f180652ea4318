"""Layers as they are listed: who holds which part of one, and what is free. Pure.

A layer is made before an experiment may name it: a misspelt one would be a layer of its own, and two experiments that
must not meet would. What an experiment holds of it stands in the experiment's config.
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
    """A layer, what is held of it by live experiments, and the parts [start, end) that are free, both in order."""

    key: str
    description: str
    created_at: int
    created_by: str
    held: tuple[Held, ...] = ()
    free: tuple[tuple[int, int], ...] = ((0, BUCKETS),)


def free_parts(held: Iterable[Held]) -> tuple[tuple[int, int], ...]:
    """What no part of `held` covers of [0, 10,000)."""
    free, at = [], 0
    for part in sorted(held, key=lambda part: part.start):
        if part.start > at:
            free.append((at, part.start))
        at = max(at, part.end)
    return (*free, (at, BUCKETS)) if at < BUCKETS else tuple(free)

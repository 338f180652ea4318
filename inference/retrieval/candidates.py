"""The answer to one query."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Candidates(NamedTuple):
    """The nearest products of one query, the best first."""

    ids: list[str]
    scores: list[float]  # cosines


def merge_best(k: int, first: Candidates, second: Candidates) -> Candidates:
    """Return the `k` best of two answers to one query, sorted. No product may be in both."""
    scores = np.array(first.scores + second.scores)
    ids = first.ids + second.ids
    order = np.argsort(-scores, kind="stable")[:k].tolist()
    return Candidates([ids[at] for at in order], scores[order].tolist())

"""Merged answers."""

from __future__ import annotations

from inference.retrieval.candidates import Candidates, merge_best


def test_the_best_of_two_answers_come_first_and_ties_keep_their_order() -> None:
    first, second = Candidates(["a", "b"], [0.9, 0.5]), Candidates(["c", "d", "e"], [0.7, 0.5, 0.1])
    assert merge_best(4, first, second) == Candidates(["a", "c", "b", "d"], [0.9, 0.7, 0.5, 0.5])
    assert merge_best(9, first, Candidates([], [])) == first

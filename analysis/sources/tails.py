"""Tail counts and rules that follow from the extremes of columns, so that a query need not count them.

A Parquet file knows the smallest and largest value of each column. Often that is enough to say that no unit breaks a
rule, or that enough units have a value and that no unit carries too much of the variance.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import floor

from analysis.aggregates import FEW_NONZERO, ONE_UNIT, Aggregates, Cell, Needs, Rule, Tail, pair
from analysis.columns import Column
from analysis.sources.session import Extremes


def without_settled(needs: Needs, extremes: Extremes | None) -> Needs:
    """Drop the tails and rules that the extremes settle, so that the query does not count them."""
    if extremes is None:
        return needs
    return replace(
        needs,
        tails=frozenset(column for column in needs.tails if not is_plain(column, extremes)),
        rules=frozenset(rule for rule in needs.rules if not _holds(rule, extremes)),
    )


def is_plain(column: Column, extremes: Extremes) -> bool:
    """Say whether the extremes are those of this column: without cap, filter, window and sign."""
    return column.name in extremes and column == Column(column.name)


def with_bounded_tails(aggregates: Aggregates, columns: Sequence[Column], extremes: Extremes) -> Aggregates:
    """Add the tails of plain columns as far as sums and extremes bound them.

    Args:
        aggregates: Aggregates without the tails of these columns.
        columns: Plain columns.
        extremes: Smallest and largest value of each column.
    """
    cells = tuple(_bounded(cell, columns, extremes, aggregates.shifts) for cell in aggregates.cells)
    return replace(aggregates, cells=cells)


def bounds_suffice(aggregates: Aggregates, columns: Sequence[Column]) -> bool:
    """Say whether the bounded tails pass the checks in every arm, so that exact counts would change nothing."""
    arms = [aggregates.moments(arm) for arm in aggregates.arms]
    return all(
        arm.tails[c].nonzero >= FEW_NONZERO
        and (arm.covariances is None or arm.tails[c].heaviest(arm.means[c], arm.variance(c), arm.n) <= ONE_UNIT)
        for arm in arms
        for c in columns
    )


def _holds(rule: Rule, extremes: Extremes) -> bool:
    """Say whether the extremes alone show that no unit breaks the rule."""
    if not is_plain(rule.column, extremes):
        return False
    least, most = extremes[rule.column.name]
    if rule.most is None:
        return least >= 0
    return is_plain(rule.most, extremes) and most <= extremes[rule.most.name][0]


def _bounded(cell: Cell, columns: Sequence[Column], extremes: Extremes, shifts: Mapping[Column, float]) -> Cell:
    """Bound the tails of one cell: by Cauchy and Schwarz, k units with a value have (sum x)^2 <= k sum x^2."""
    tails = dict(cell.tails)
    for column in columns:
        shift = shifts.get(column, 0.0)
        total = cell.sums[column] + cell.n * shift
        square = cell.products[pair(column, column)] + 2 * shift * cell.sums[column] + cell.n * shift**2
        least = floor(total**2 / square) if square > 0 else 0
        tails[column] = Tail(min(least, cell.n), max(map(abs, extremes[column.name])), exact=False)
    return replace(cell, tails=tails)

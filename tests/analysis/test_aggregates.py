"""Shifted sums are exact where raw sums are not, and cells add up in any order."""

import random
from math import nan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.aggregates import Aggregates, Cell, Column, Needs, Tail, moments_of, pair
from analysis.errors import DataError
from analysis.metrics import Mean, Ratio, merged_needs

X, Y = Column("x"), Column("y")


def cell(
    x: list[float], y: list[float] | None = None, arm: str = "a", shift: float = 0.0, day: int | None = None
) -> Cell:
    a = np.asarray(x, dtype=float) - shift
    b = np.asarray(x if y is None else y, dtype=float)
    return Cell(
        arm=arm,
        day=day,
        segment=None,
        n=len(x),
        sums={X: float(a.sum()), Y: float(b.sum())},
        products={(X, X): float(a @ a), (X, Y): float(a @ b), (Y, Y): float(b @ b)},
        tails={X: Tail(int(np.count_nonzero(x)), float(np.max(np.abs(x))))},
    )


def test_moments_equal_those_of_numpy() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(3, 2, 500), rng.normal(-1, 5, 500)
    moments = moments_of([cell(list(x), list(y), shift=2.5)], {X: 2.5})
    assert moments.n == 500
    assert moments.means[X] == pytest.approx(x.mean(), rel=1e-12)
    assert moments.variance(X) == pytest.approx(x.var(ddof=1), rel=1e-12)
    assert moments.covariance(Y, X) == pytest.approx(np.cov(x, y)[0, 1], rel=1e-10)


def test_a_merge_of_cells_equals_the_whole_and_ignores_their_order() -> None:
    rng = np.random.default_rng(2)
    x = rng.lognormal(0, 2, 1000)
    parts = [cell(list(part)) for part in np.array_split(x, 37)]
    whole = moments_of(parts, {})
    assert whole.variance(X) == pytest.approx(x.var(ddof=1), rel=1e-12)
    for seed in range(5):
        random.Random(seed).shuffle(parts)
        again = moments_of(parts, {})
        assert again.means == whole.means
        assert again.covariances == whole.covariances


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=40), st.integers(1, 2))
def test_splitting_into_cells_changes_nothing(values: list[float], cut: int) -> None:
    split = moments_of([cell(values[:cut]), cell(values[cut:])], {})
    scale = max(abs(v) for v in values) ** 2 + 1e-12
    assert split.variance(X) == pytest.approx(np.var(values, ddof=1), abs=1e-9 * scale)


def test_a_shift_is_requested_only_where_digits_would_be_lost() -> None:
    rng = np.random.default_rng(3)
    far = Aggregates((cell(list(rng.normal(1e7, 0.1, 1000))),))
    assert far.better_shifts() is not None
    assert far.better_shifts()[X] == pytest.approx(1e7, abs=0.1)  # type: ignore[index]
    assert Aggregates((cell(list(rng.lognormal(3, 1, 1000))),)).better_shifts() is None


def test_a_column_is_selected_by_arm_day_and_segment() -> None:
    cells = (cell([1, 2], day=0), cell([5, 7], day=1), cell([100, 3], day=0, arm="b"))
    aggregates = Aggregates(cells)
    assert aggregates.arms == ("a", "b")
    assert aggregates.days == (0, 1)
    assert aggregates.moments("a").means[X] == 15 / 4
    assert aggregates.moments("a", until=0).means[X] == 1.5
    assert aggregates.moments("b").tails[X] == Tail(2, 100.0)


def test_nan_and_infinite_sums_are_refused_by_name() -> None:
    for bad in (nan, float("inf"), 1e200):  # the square of the last overflows
        with np.errstate(over="ignore"), pytest.raises(DataError, match="Column x of arm 'a'"):
            Aggregates((cell([1.0, bad]),))


def test_contradicting_sums_are_refused() -> None:
    wrong = Cell("a", None, None, 2, {X: 10.0}, {(X, X): 1.0})
    with pytest.raises(DataError, match="contradict"):
        moments_of([wrong], {})


def test_needs_of_metrics_merge_each_thing_once() -> None:
    gmv = Mean(name="gmv", column="gmv", covariate="pre")
    ctr = Ratio(name="ctr", numerator="clicks", denominator="views")
    aov = Ratio(name="aov", numerator="gmv", denominator="orders")
    needs = merged_needs([gmv, ctr, aov])
    assert {str(c) for c in needs.columns} == {"gmv", "pre", "clicks", "views", "orders"}
    assert len(needs.products) == 5 + 3  # squares, and gmv*pre, clicks*views, gmv*orders
    assert pair(Column("pre"), Column("gmv")) in needs.products
    assert needs | Needs() == needs

"""The sums that leave the data source, and everything that can be made of them.

For each cell (arm x day x segment) a source returns the number of units n and, for the columns that metrics need, the
shifted sums  S_a = sum(a - c_a)  and  P_ab = sum((a - c_a)(b - c_b)),  with one shift c per column for all cells.
Means and covariances follow exactly, cells add up, and no row of a user is ever needed:

    mean_a = c_a + S_a / n          cov_ab = (P_ab - S_a S_b / n) / (n - 1)

The shift is what makes this safe. With c = 0 a column of mean m and standard deviation s loses 2 log10(m / s) digits to
cancellation (NIST StRD NumAcc4: all of them). Sources start from 0, which costs nothing and is exact for counts and
sparse amounts; `better_shifts` says when the answer was not good enough and from where to look again.

Besides sums, a source counts the units that break a rule (a negative number of clicks), that a cap changed, and that
have a value at all; and it looks up single order statistics, for quantiles and for caps.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations_with_replacement
from math import fsum, isfinite
from typing import TYPE_CHECKING

from analysis.columns import Column, Limits
from analysis.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# (mean - shift)^2 / variance above which a second look pays: more than 4 of a double's 16 digits would be lost.
WORST_CONDITION = 1e4

Pair = tuple[Column, Column]


def pair(a: Column, b: Column) -> Pair:
    """The key of a product, the same whichever way round."""
    return (a, b) if a <= b else (b, a)


@dataclass(frozen=True, order=True)
class Rule:
    """What holds for every unit of sound data: `column` is not below zero, or not above `most` where that is given."""

    column: Column
    most: Column | None = None

    def __str__(self) -> str:
        return f"{self.column} above {self.most}" if self.most else f"{self.column} below 0"


@dataclass(frozen=True, order=True)
class Rank:
    """An order statistic asked for by arm: the smallest value with at least a share `q` of the units at or below it,
    and those `reach` standard deviations of the rank, sqrt(n q (1 - q)), below and above it."""

    column: Column
    q: float
    reach: float


@dataclass(frozen=True)
class Ranked:
    """The answer to a `Rank` in one arm: the values at the ranks low <= at <= high, counted from 1, of n units."""

    n: int
    ranks: tuple[int, int, int]
    values: tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Frequencies:
    """Distinct rows of values, shape (u, k), and how many units of an arm have each, shape (u,)."""

    rows: "NDArray[np.float64]"
    counts: "NDArray[np.int64]"

    def values(self) -> "NDArray[np.float64]":
        """One row per unit, shape (n, k)."""
        import numpy as np

        return np.repeat(self.rows, self.counts, axis=0)


@dataclass(frozen=True)
class Needs:
    """What metrics ask of a source. `a | b` is what both ask for, each thing once."""

    columns: frozenset[Column] = frozenset()
    products: frozenset[Pair] = frozenset()
    tails: frozenset[Column] = frozenset()  # columns whose non-zero values are counted and whose largest is kept
    rules: frozenset[Rule] = frozenset()
    ranks: frozenset[Rank] = frozenset()
    tables: frozenset[tuple[Column, ...]] = frozenset()  # whose rows of values are counted, for resampling

    @classmethod
    def moments(cls, columns: Sequence[Column], tails: Iterable[Column] = ()) -> "Needs":
        """Sums, squares and all cross-products of these columns."""
        products = frozenset(pair(a, b) for a, b in combinations_with_replacement(columns, 2))
        return cls(frozenset(columns), products, frozenset(tails))

    def __or__(self, other: "Needs") -> "Needs":
        return Needs(
            self.columns | other.columns,
            self.products | other.products,
            self.tails | other.tails,
            self.rules | other.rules,
            self.ranks | other.ranks,
            self.tables | other.tables,
        )

    @property
    def capped(self) -> tuple[Column, ...]:
        return tuple(sorted(column for column in self.columns if column.cap))

    @property
    def quantities(self) -> tuple[Column, ...]:
        """What has to be read for each unit, before capping and before asking for the sign."""
        read = {column.quantity for column in self.columns} | {rank.column.quantity for rank in self.ranks}
        return tuple(sorted(read))


# Where the sums alone show that a column is on the right side of these, a source may leave its tails uncounted.
FEW_NONZERO = 100  # in the smaller arm; below it every interval of a heavy-tailed mean misses more than it says
ONE_UNIT = 0.2  # share of an arm's variance that a single unit may carry (a rule of thumb)


@dataclass(frozen=True)
class Tail:
    """nonzero: units with a value other than 0. largest: the largest absolute value of one unit.

    Not `exact`: there are at least `nonzero` such units, and no value is larger than `largest`.
    """

    nonzero: int
    largest: float
    exact: bool = True

    def heaviest(self, mean: float, variance: float, n: int) -> float:
        """Share of the variance, of n units, that the largest of them carries (at most, if not exact)."""
        if variance <= 0 or n < 2:
            return 0.0
        distance = max(abs(self.largest - mean), 0.0 if self.exact else abs(self.largest + mean))
        return min(distance**2 / (variance * (n - 1)), 1.0)


@dataclass(frozen=True)
class Cell:
    """Aggregates of one arm on one day in one segment; `day` is its start in microseconds since the epoch, UTC."""

    arm: str
    day: int | None
    segment: str | None
    n: int
    sums: Mapping[Column, float]
    products: Mapping[Pair, float]
    tails: Mapping[Column, Tail] = field(default_factory=dict)
    broken: Mapping[Rule, int] = field(default_factory=dict)  # units that break a rule
    capped: Mapping[Column, int] = field(default_factory=dict)  # units whose value the cap changed


@dataclass(frozen=True)
class Moments:
    """Sample moments of some units: means, and unbiased covariances (None below two units)."""

    n: int
    means: Mapping[Column, float]
    covariances: Mapping[Pair, float] | None
    tails: Mapping[Column, Tail]

    def covariance(self, a: Column, b: Column) -> float:
        if self.covariances is None:
            raise DataError(f"A variance needs two units, and there are {self.n}.")
        return self.covariances[pair(a, b)]

    def variance(self, column: Column) -> float:
        return self.covariance(column, column)


@dataclass(frozen=True)
class Aggregates:
    """All cells of a report, with the shifts that their sums were taken from."""

    cells: tuple[Cell, ...]
    shifts: Mapping[Column, float] = field(default_factory=dict)
    limits: Mapping[Column, Limits] = field(default_factory=dict)  # what the caps came to
    ranked: Mapping[tuple[str, Rank], Ranked] = field(default_factory=dict)  # by arm
    tables: Mapping[tuple[str, tuple[Column, ...]], Frequencies] = field(default_factory=dict)  # by arm

    def __post_init__(self) -> None:
        for cell in self.cells:
            for column, value in cell.sums.items():
                if not isfinite(value) or not isfinite(cell.products.get(pair(column, column), 0.0)):
                    raise DataError(
                        f"Column {column} of arm {cell.arm!r} holds NaN, infinite or overflowing values. "
                        "Clean them at the source: a mean over them does not exist."
                    )

    @property
    def arms(self) -> tuple[str, ...]:
        return tuple(sorted({cell.arm for cell in self.cells if cell.n}))

    @property
    def days(self) -> tuple[int, ...]:
        return tuple(sorted({cell.day for cell in self.cells if cell.day is not None}))

    @property
    def segments(self) -> tuple[str, ...]:
        return tuple(sorted({cell.segment for cell in self.cells if cell.segment is not None}))

    def count(self, arm: str, segment: str | None = None) -> int:
        return sum(cell.n for cell in self.cells if cell.arm == arm and segment in (None, cell.segment))

    def broken(self, rule: Rule) -> int:
        """Units that break a rule, over all arms."""
        return sum(cell.broken.get(rule, 0) for cell in self.cells)

    def capped(self, column: Column, arm: str) -> int:
        """Units of an arm whose value the cap changed."""
        return sum(cell.capped.get(column, 0) for cell in self.cells if cell.arm == arm)

    def moments(self, arm: str | None = None, *, until: int | None = None, segment: str | None = None) -> Moments:
        """Moments of an arm (all arms if None), of the days up to and including `until`, of one segment or all."""
        return moments_of(
            [
                cell
                for cell in self.cells
                if (arm is None or cell.arm == arm)
                and (until is None or (cell.day is not None and cell.day <= until))
                and (segment is None or cell.segment == segment)
            ],
            self.shifts,
        )

    def better_shifts(self) -> dict[Column, float] | None:
        """Shifts for a second look, where the first lost digits to cancellation; None if it was good enough."""
        overall = self.moments()
        arms = [self.moments(arm) for arm in self.arms]
        shifts = dict(self.shifts)
        for column, mean in overall.means.items():
            shift = self.shifts.get(column, 0.0)
            if shift != mean and any(
                pair(column, column) in (arm.covariances or {})
                and (arm.means[column] - shift) ** 2 > WORST_CONDITION * arm.variance(column)
                for arm in arms
            ):
                shifts[column] = mean
        return shifts if shifts != dict(self.shifts) else None


def moments_of(cells: Sequence[Cell], shifts: Mapping[Column, float]) -> Moments:
    """Add cells up. `fsum` rounds once, so the order of the cells never changes a result."""
    n = sum(cell.n for cell in cells)
    if n == 0:
        return Moments(0, {}, None, {})
    first = cells[0]
    sums = {column: fsum(cell.sums[column] for cell in cells) for column in first.sums}
    means = {column: shifts.get(column, 0.0) + total / n for column, total in sums.items()}
    covariances = None
    if n > 1:
        covariances = {}
        for key in first.products:
            a, b = key
            product = fsum(cell.products[key] for cell in cells)
            value = (product - sums[a] * sums[b] / n) / (n - 1)
            covariances[key] = _variance(a, value, product / n) if a == b else value
    tails = {
        column: Tail(
            sum(c.tails[column].nonzero for c in cells),
            max(c.tails[column].largest for c in cells),
            all(c.tails[column].exact for c in cells),
        )
        for column in first.tails
    }
    return Moments(n, means, covariances, tails)


def _variance(column: Column, value: float, scale: float) -> float:
    """Rounding may leave a variance just off zero; anything clearly negative means that the sums contradict."""
    if value < -1e-9 * scale:
        raise DataError(
            f"The sums of column {column} contradict each other (variance {value:.3g} < 0). "
            "Sum and sum of squares must come from the same rows."
        )
    return 0.0 if value <= 1e-14 * scale else value

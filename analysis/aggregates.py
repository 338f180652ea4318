"""The sums that leave a data source, and the moments that follow from them.

For each cell (arm x interval of time x segment) a source returns the number of units n and, for the columns that
metrics need, the shifted sums  S_a = sum(a - c_a)  and  P_ab = sum((a - c_a)(b - c_b)),  with one shift c per column
for all cells. Means and covariances follow exactly, cells can be added, and no row of a user is needed:

    mean_a = c_a + S_a / n          cov_ab = (P_ab - S_a S_b / n) / (n - 1)

The shift keeps precision. With c = 0, a column of mean m and standard deviation s loses 2 log10(m / s) digits to
cancellation (NIST StRD NumAcc4: all of them). Sources start with shifts of 0, which cost nothing and are exact for
counts and sparse amounts. `better_shifts` says whether the result lost too many digits, and which shifts to use then.

Besides sums, a source counts the units that break a rule (a negative number of clicks), that a cap changed, and that
have a value other than 0. It also looks up single order statistics, for quantiles and for caps.
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

# (mean - shift)^2 / variance above which a second query pays: more than 4 of a double's 16 digits would be lost.
WORST_CONDITION = 1e4

EPSILON = 2.0**-52  # distance of 1 to the next larger double

Pair = tuple[Column, Column]


def pair(a: Column, b: Column) -> Pair:
    """Return the key of a product; it is the same for both orders of the columns."""
    return (a, b) if a <= b else (b, a)


@dataclass(frozen=True, order=True)
class Rule:
    """A rule that every unit of sound data satisfies.

    Attributes:
        column: The column. It must not be below 0 or, if `most` is given, not above that column.
        most: The column that limits `column`; None limits it by 0 from below.
    """

    column: Column
    most: Column | None = None

    def __str__(self) -> str:
        return f"{self.column} above {self.most}" if self.most else f"{self.column} below 0"


@dataclass(frozen=True, order=True)
class Rank:
    """Order statistics that a metric needs of each arm: a quantile, and the values some ranks below and above it.

    Attributes:
        column: The column.
        q: The quantile: the smallest value with at least this share of the units at or below it.
        reach: Distance of the ranks below and above, in standard deviations of the rank, sqrt(n q (1 - q)).
    """

    column: Column
    q: float
    reach: float


@dataclass(frozen=True)
class Ranked:
    """The order statistics of one arm that a `Rank` asks for.

    Attributes:
        n: Number of units.
        ranks: The ranks low <= at <= high, counted from 1.
        values: The values at these ranks.
    """

    n: int
    ranks: tuple[int, int, int]
    values: tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Frequencies:
    """How many units of an arm have which values.

    Attributes:
        rows: Distinct rows of values, shape (u, k).
        counts: Number of units with each row, shape (u,).
    """

    rows: "NDArray[np.float64]"
    counts: "NDArray[np.int64]"

    def values(self) -> "NDArray[np.float64]":
        """Return one row per unit, shape (n, k)."""
        import numpy as np

        return np.repeat(self.rows, self.counts, axis=0)


@dataclass(frozen=True)
class Needs:
    """The aggregates that metrics need. `a | b` is their union.

    Attributes:
        columns: Columns to sum.
        products: Pairs of columns whose products are summed.
        tails: Columns whose non-zero values are counted and whose largest value is kept.
        rules: Rules whose violations are counted.
        ranks: Order statistics.
        tables: Groups of columns whose rows of values are counted, for resampling.
    """

    columns: frozenset[Column] = frozenset()
    products: frozenset[Pair] = frozenset()
    tails: frozenset[Column] = frozenset()
    rules: frozenset[Rule] = frozenset()
    ranks: frozenset[Rank] = frozenset()
    tables: frozenset[tuple[Column, ...]] = frozenset()

    @classmethod
    def moments(cls, columns: Sequence[Column], tails: Iterable[Column] = ()) -> "Needs":
        """Return the needs for the joint moments of columns: sums, squares and all cross-products."""
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
        """Columns with a cap, sorted."""
        return tuple(sorted(column for column in self.columns if column.cap))

    @property
    def quantities(self) -> tuple[Column, ...]:
        """Columns to read for each unit, without caps and signs, sorted."""
        read = {column.quantity for column in self.columns} | {rank.column.quantity for rank in self.ranks}
        return tuple(sorted(read))


# A source need not count the tails of a column if the sums alone show that it passes both limits.
FEW_NONZERO = 100  # units in the smaller arm; below it, intervals of a heavy-tailed mean miss more often than stated
ONE_UNIT = 0.2  # share of an arm's variance that a single unit may make up (a rule of thumb)


@dataclass(frozen=True)
class Tail:
    """The tail of a column's values.

    Attributes:
        nonzero: Units with a value other than 0; at least as many if not `exact`.
        largest: Largest absolute value of one unit; an upper bound if not `exact`.
        exact: Whether both numbers are exact.
    """

    nonzero: int
    largest: float
    exact: bool = True

    def heaviest(self, mean: float, variance: float, n: int) -> float:
        """Return the share of the variance of n units that the largest unit makes up; an upper bound if not exact."""
        if variance <= 0 or n < 2:
            return 0.0
        distance = max(abs(self.largest - mean), 0.0 if self.exact else abs(self.largest + mean))
        return min(distance**2 / (variance * (n - 1)), 1.0)


@dataclass(frozen=True)
class Cell:
    """Aggregates of one arm in one interval of time and one segment.

    Attributes:
        arm: Label of the arm.
        day: Start of the interval of time, in microseconds since the epoch; None without times.
        segment: The segment; None without segments.
        n: Number of units.
        sums: Shifted sum of each column.
        products: Shifted sum of the product of each pair of columns.
        tails: Tail of each column.
        broken: Number of units that break each rule.
        capped: Number of units whose value each cap changed.
    """

    arm: str
    day: int | None
    segment: str | None
    n: int
    sums: Mapping[Column, float]
    products: Mapping[Pair, float]
    tails: Mapping[Column, Tail] = field(default_factory=dict)
    broken: Mapping[Rule, int] = field(default_factory=dict)
    capped: Mapping[Column, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Moments:
    """Sample moments of some units.

    Attributes:
        n: Number of units.
        means: Mean of each column.
        covariances: Unbiased covariance of each pair of columns; None below two units.
        tails: Tail of each column.
        rests: What the rounding of each mean lost; 0 if missing. A mean of 1e15 has steps of 0.125, and the difference
            of two means is smaller.
    """

    n: int
    means: Mapping[Column, float]
    covariances: Mapping[Pair, float] | None
    tails: Mapping[Column, Tail]
    rests: Mapping[Column, float] = field(default_factory=dict)

    def covariance(self, a: Column, b: Column) -> float:
        """Return the covariance of two columns.

        Raises:
            DataError: There are fewer than two units.
        """
        if self.covariances is None:
            raise DataError(f"A variance needs two units, and there are {self.n}.")
        return self.covariances[pair(a, b)]

    def variance(self, column: Column) -> float:
        """Return the variance of a column."""
        return self.covariance(column, column)


@dataclass(frozen=True)
class Aggregates:
    """All cells of a report.

    Attributes:
        cells: The cells.
        shifts: Shift of each column's sums; 0 if missing.
        limits: Limits of each capped column.
        ranked: Order statistics by arm.
        tables: Counts of values by arm.

    Raises:
        DataError: A sum is NaN or infinite.
    """

    cells: tuple[Cell, ...]
    shifts: Mapping[Column, float] = field(default_factory=dict)
    limits: Mapping[Column, Limits] = field(default_factory=dict)
    ranked: Mapping[tuple[str, Rank], Ranked] = field(default_factory=dict)
    tables: Mapping[tuple[str, tuple[Column, ...]], Frequencies] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for cell in self.cells:
            for column, value in cell.sums.items():
                if not isfinite(value) or not isfinite(cell.products.get(pair(column, column), 0.0)):
                    raise DataError(
                        f"Column {column} of arm {cell.arm!r} holds NaN, infinite or overflowing values. "
                        "They have no mean. Clean them at the source."
                    )

    @property
    def arms(self) -> tuple[str, ...]:
        """Labels of the arms with units, sorted."""
        return tuple(sorted({cell.arm for cell in self.cells if cell.n}))

    @property
    def days(self) -> tuple[int, ...]:
        """Starts of the intervals of time, in microseconds since the epoch, sorted."""
        return tuple(sorted({cell.day for cell in self.cells if cell.day is not None}))

    @property
    def segments(self) -> tuple[str, ...]:
        """Segments, sorted."""
        return tuple(sorted({cell.segment for cell in self.cells if cell.segment is not None}))

    def count(self, arm: str, segment: str | None = None) -> int:
        """Count the units of an arm, in one segment or in all."""
        return sum(cell.n for cell in self.cells if cell.arm == arm and segment in (None, cell.segment))

    def broken(self, rule: Rule) -> int:
        """Count the units that break a rule, over all arms."""
        return sum(cell.broken.get(rule, 0) for cell in self.cells)

    def capped(self, column: Column, arm: str) -> int:
        """Count the units of an arm whose value the cap changed."""
        return sum(cell.capped.get(column, 0) for cell in self.cells if cell.arm == arm)

    def moments(self, arm: str | None = None, *, until: int | None = None, segment: str | None = None) -> Moments:
        """Return the moments of some units.

        Args:
            arm: The arm; None means all.
            until: Start of the last interval of time to include, in microseconds since the epoch; None means all.
            segment: The segment; None means all.
        """
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
        """Return shifts for a second query if the sums lost digits to cancellation, else None."""
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
    """Add cells up. The order of the cells never changes a result, because `fsum` rounds once.

    Args:
        cells: Cells with the same columns.
        shifts: Shift of each column's sums.

    Raises:
        DataError: Sums contradict each other.
    """
    n = sum(cell.n for cell in cells)
    if n == 0:
        return Moments(0, {}, None, {})
    first = cells[0]
    sums = {column: fsum(cell.sums[column] for cell in cells) for column in first.sums}
    means, rests = {}, {}
    for column, total in sums.items():
        means[column], rests[column] = exact_sum(shifts.get(column, 0.0), total / n)
    covariances = None
    if n > 1:
        covariances = {}
        for key in first.products:
            a, b = key
            product = fsum(cell.products[key] for cell in cells)
            value = (product - sums[a] * sums[b] / n) / (n - 1)
            covariances[key] = _variance(a, value, product / n, n) if a == b else value
        covariances = without_constants(covariances)
    tails = {
        column: Tail(
            sum(c.tails[column].nonzero for c in cells),
            max(c.tails[column].largest for c in cells),
            all(c.tails[column].exact for c in cells),
        )
        for column in first.tails
    }
    return Moments(n, means, covariances, tails, rests)


def exact_sum(a: float, b: float) -> tuple[float, float]:
    """Return the rounded sum and what the rounding lost; together they are exact (Knuth's TwoSum)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def without_constants(covariances: Mapping[Pair, float]) -> dict[Pair, float]:
    """Set the covariances of columns without variance to 0, where rounding left something else."""
    constant = {a for (a, b), value in covariances.items() if a == b and value == 0}
    return {key: 0.0 if constant.intersection(key) else value for key, value in covariances.items()}


def _variance(column: Column, value: float, scale: float, n: int) -> float:
    """Return the variance, 0 if only rounding separates it from 0; a clearly negative one is an error.

    A sum of n terms can lose a share of n * 2^-52: databases add the terms one after the other.
    """
    if value < -max(1e-9, n * EPSILON) * scale:
        raise DataError(
            f"The sums of column {column} contradict each other (variance {value:.3g} < 0). "
            "Sum and sum of squares must come from the same rows."
        )
    return 0.0 if value <= max(1e-14, n * EPSILON) * scale else value

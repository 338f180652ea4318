"""Interleaving: which of two rankings units prefer, from lists that mix both.

Each list gives credits: how many products of ranker `a` were chosen in it, and how many of `b` (team draft gives both
the same chance at every position). The ranker with more chosen products wins the list. A unit's score is

    s = (lists won by b - lists won by a) / lists with a choice            from -1 to 1

and the preference is the mean of s over units. The unit is counted and not the list, because a unit's lists are not
independent. Weighted by lists, the preference is the ratio sum(d) / sum(m) of lists won minus lost and lists. Its
variance over units is that of the delta method, n/(n-1) sum((d - r m)^2) / sum(m)^2, the cluster-robust one.

Interleaving detects a difference of ranking with a tenth to a hundredth of the units of an A/B test. It says nothing
about revenue.

References: Radlinski, Kurup, Joachims 2008; Chapelle, Joachims, Radlinski, Yue 2012 (their Delta is half the score).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, fsum, sqrt
from typing import Literal

from analysis.errors import ArgumentError, DataError
from analysis.inference import t_quantile
from analysis.sequential import anytime_critical, anytime_p
from analysis.validation import check_count, check_scalar, check_share

Weight = Literal["unit", "list"]


@dataclass(frozen=True)
class UnitWins:
    """The lists of one unit in which something was chosen.

    Attributes:
        unit: Id of the unit.
        a: Lists won by ranker `a`.
        b: Lists won by ranker `b`.
        ties: Lists with as many choices from both.
    """

    unit: str
    a: int
    b: int
    ties: int = 0

    @property
    def lists(self) -> int:
        """Number of lists."""
        return self.a + self.b + self.ties

    @property
    def score(self) -> float:
        """Score from -1 (`a` wins every list) to 1 (`b` wins every list)."""
        return (self.b - self.a) / self.lists


@dataclass(frozen=True)
class Anytime:
    """The preference as a confidence sequence, valid at any number of looks (`analysis.sequential`).

    Attributes:
        low: Lower bound of the score.
        high: Upper bound of the score.
        p: Always-valid p-value.
        planned_units: Units at which the sequence is narrowest.
    """

    low: float
    high: float
    p: float
    planned_units: int


@dataclass(frozen=True)
class Preference:
    """Which ranker units prefer.

    Attributes:
        weight: Whether each unit or each list counts once.
        units: Units with a choice.
        lists: Lists with a choice.
        score: Score from -1 to 1; above 0, `b` is preferred.
        standard_error: Standard error of the score.
        low: Lower bound of the score, by Student's t over units.
        high: Upper bound of the score.
        p: Two-sided p-value.
        a_units: Units that prefer `a`.
        b_units: Units that prefer `b`.
        sign_p: p-value of the exact sign test of these, which only assumes that units are independent.
        alpha: 1 - coverage of the interval.
        anytime: Confidence sequence; None without planned units.
    """

    weight: Weight
    units: int
    lists: int
    score: float
    standard_error: float
    low: float
    high: float
    p: float
    a_units: int
    b_units: int
    sign_p: float
    alpha: float
    anytime: Anytime | None = None

    @property
    def share(self) -> float:
        """Share of lists that `b` wins, with a tie as half a win: 0.5 where neither is preferred."""
        return (1 + self.score) / 2


def unit_wins(lists: Iterable[tuple[str, float, float]]) -> list[UnitWins]:
    """Count the lists that each ranker wins, by unit.

    Args:
        lists: Unit, credit of `a` and credit of `b` of each list. A list without any credit does not count.

    Raises:
        DataError: A credit is below 0.
    """
    counts: dict[str, list[int]] = {}
    for unit, a, b in lists:
        if not (a >= 0 and b >= 0):
            raise DataError(f"A list of unit {unit!r} has the credits {a} and {b}, and a credit must be at least 0.")
        if a or b:
            row = counts.setdefault(unit, [0, 0, 0])
            row[0 if a > b else 1 if b > a else 2] += 1
    return [UnitWins(unit, *counts[unit]) for unit in sorted(counts)]


def preference(
    wins: Sequence[UnitWins], *, weight: Weight = "unit", alpha: float = 0.05, planned_units: int | None = None
) -> Preference:
    """Compute which ranker units prefer, with interval and test.

    Args:
        wins: Lists won by each ranker, by unit.
        weight: `unit` counts each unit once; `list` counts each list once, as the share of won lists does.
        alpha: 1 - coverage of the interval.
        planned_units: Units at which the confidence sequence is narrowest; keep it the same at every look.

    Raises:
        ArgumentError: An argument is out of range.
        DataError: There are fewer than two units, or a unit occurs twice or has no list.
    """
    from scipy.stats import binomtest, t

    check_share(alpha, "alpha")
    if weight not in ("unit", "list"):
        raise ArgumentError(f"weight is {weight!r}, and must be 'unit' or 'list'.")
    _check_wins(wins)
    n = len(wins)
    score, error = _mean(wins) if weight == "unit" else _ratio(wins)
    a_units, b_units = sum(w.a > w.b for w in wins), sum(w.b > w.a for w in wins)
    decided = a_units + b_units
    sign_p = float(binomtest(b_units, decided).pvalue) if decided else 1.0
    if error > 0:
        p, reach = float(2 * t.sf(abs(score) / error, n - 1)), t_quantile(n - 1, alpha) * error
    else:
        # All units have the same score, so the variance is uninformative. If a share q of all units scored otherwise,
        # none of them would be among n units with probability (1 - q)^n; each of them moves the mean by 2 at most.
        p, reach = sign_p, 2 * (1 - alpha ** (1 / n))
    return Preference(
        weight=weight,
        units=n,
        lists=sum(w.lists for w in wins),
        score=score,
        standard_error=error,
        low=max(-1.0, score - reach),
        high=min(1.0, score + reach),
        p=p,
        a_units=a_units,
        b_units=b_units,
        sign_p=sign_p,
        alpha=alpha,
        anytime=None if planned_units is None or error == 0 else _anytime(score, error, n, planned_units, alpha),
    )


def units_needed(score: float, deviation: float, *, alpha: float = 0.05, power: float = 0.8) -> int:
    """Return the units with a choice that are needed to detect a preference, two-sided.

    Args:
        score: The score to detect.
        deviation: Standard deviation of the units' scores, at most 1; that of a past comparison is `standard_error *
            sqrt(units)`.
        alpha: Level of the test.
        power: Probability of detecting the preference.

    Raises:
        ArgumentError: An argument is out of range.
    """
    from scipy.special import ndtri

    if check_scalar(score, "score", ge=-1, le=1) == 0:
        raise ArgumentError("score is 0, and no number of units can show that there is no preference.")
    check_scalar(deviation, "deviation", gt=0, le=1)
    reach = float(ndtri(1 - check_share(alpha, "alpha") / 2) + ndtri(check_share(power, "power")))
    return max(2, ceil((reach * deviation / score) ** 2))


def _check_wins(wins: Sequence[UnitWins]) -> None:
    if len(wins) < 2:
        raise DataError(
            f"{len(wins)} unit(s) chose something. A comparison needs at least two, and some hundred to be useful."
        )
    seen: set[str] = set()
    for each in wins:
        if each.unit in seen:
            raise DataError(f"Unit {each.unit!r} occurs twice. Give each unit once, with all its lists (unit_wins).")
        if min(each.a, each.b, each.ties) < 0 or each.lists == 0:
            raise DataError(f"Unit {each.unit!r} has no list, or a negative number of them. Leave it out.")
        seen.add(each.unit)


def _mean(wins: Sequence[UnitWins]) -> tuple[float, float]:
    scores = [each.score for each in wins]
    mean = fsum(scores) / len(scores)
    variance = fsum((score - mean) ** 2 for score in scores) / (len(scores) - 1)
    return mean, sqrt(variance / len(scores)) if len(set(scores)) > 1 else 0.0


def _ratio(wins: Sequence[UnitWins]) -> tuple[float, float]:
    n, lists = len(wins), sum(each.lists for each in wins)
    ratio = sum(each.b - each.a for each in wins) / lists
    squares = fsum((each.b - each.a - ratio * each.lists) ** 2 for each in wins)
    error = sqrt(squares * n / (n - 1)) / lists
    return ratio, error if len({each.score for each in wins}) > 1 else 0.0


def _anytime(score: float, error: float, units: int, planned: int, alpha: float) -> Anytime:
    check_count(planned, "planned_units")
    reach = anytime_critical(units, planned, alpha) * error
    p = anytime_p(score / error, units, planned, alpha)
    return Anytime(max(-1.0, score - reach), min(1.0, score + reach), p, planned)

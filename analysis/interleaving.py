"""Which of two rankings units prefer, from lists that were blended of both.

Each list gives a credit: how many of ranker `a`'s products were chosen in it, and how many of `b`'s (team draft gives
both the same chance at every position). A list is won by whose products were chosen more. A unit's score is

    s = (lists won by b - lists won by a) / lists with a choice            from -1 to 1

and the preference is the mean of s over units: a unit's lists are not independent of one another, so that the unit, and
not the list, is what is counted. Weighted by lists it is the ratio sum(d) / sum(m) of won-minus-lost and lists, whose
variance over units is the delta method's, n/(n-1) sum((d - r m)^2) / sum(m)^2; that is the cluster-robust one.

It sees a difference of ranking with a tenth to a hundredth of the units of an A/B test, and says nothing of revenue.

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
    """The lists of one unit in which something was chosen: won by `a`, won by `b`, and as often from both."""

    unit: str
    a: int
    b: int
    ties: int = 0

    @property
    def lists(self) -> int:
        return self.a + self.b + self.ties

    @property
    def score(self) -> float:
        """From -1 (every list was won by `a`) to 1 (by `b`)."""
        return (self.b - self.a) / self.lists


@dataclass(frozen=True)
class Anytime:
    """The same preference, valid however often it is looked at (`analysis.sequential`)."""

    low: float
    high: float
    p: float
    planned_units: int


@dataclass(frozen=True)
class Preference:
    """Above 0, `b` is preferred. low, high: of the score, at the level 1 - alpha, by Student's t over units.

    units, lists: with a choice. a_units, b_units: that prefer one; sign_p: exact sign test of these, which takes
    nothing for granted but that units are independent. anytime: where a number of units was planned.
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
        """The share of lists that `b` wins, a tie as half a win: 0.5 where neither is preferred."""
        return (1 + self.score) / 2


def unit_wins(lists: Iterable[tuple[str, float, float]]) -> list[UnitWins]:
    """From (unit, credit of `a`, credit of `b`) of each list, by unit. A list without any credit says nothing, and
    counts nowhere. Errors: DataError for a credit below 0.
    """
    counts: dict[str, list[int]] = {}
    for unit, a, b in lists:
        if not (a >= 0 and b >= 0):
            raise DataError(f"A list of unit {unit!r} has the credits {a} and {b}; a credit is 0 or more.")
        if a or b:
            row = counts.setdefault(unit, [0, 0, 0])
            row[0 if a > b else 1 if b > a else 2] += 1
    return [UnitWins(unit, *counts[unit]) for unit in sorted(counts)]


def preference(
    wins: Sequence[UnitWins], *, weight: Weight = "unit", alpha: float = 0.05, planned_units: int | None = None
) -> Preference:
    """Which ranker units prefer, with its interval and test.

    weight: `unit` counts each unit once; `list` counts each list once, as the share of won lists does. planned_units:
    for which the anytime interval is sharpest, the same at every look. Errors: DataError below two units or for a unit
    that is there twice or has no list; ArgumentError.
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
        # All units score the same, so that a variance says nothing. If a share q of all units scored otherwise, none
        # would be among n with chance (1 - q)^n; each of them moves the mean by 2 at most.
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
    """Units with a choice that show a preference of this score with this power, two-sided.

    deviation: of the units' scores, at most 1; that of a past comparison is `standard_error * sqrt(units)`. Errors:
    ArgumentError.
    """
    from scipy.special import ndtri

    if check_scalar(score, "score", ge=-1, le=1) == 0:
        raise ArgumentError("score is 0, and no number of units shows a preference that is not there.")
    check_scalar(deviation, "deviation", gt=0, le=1)
    reach = float(ndtri(1 - check_share(alpha, "alpha") / 2) + ndtri(check_share(power, "power")))
    return max(2, ceil((reach * deviation / score) ** 2))


def _check_wins(wins: Sequence[UnitWins]) -> None:
    if len(wins) < 2:
        raise DataError(f"{len(wins)} unit(s) chose something; a comparison needs two, and some hundred to be of use.")
    seen: set[str] = set()
    for each in wins:
        if each.unit in seen:
            raise DataError(f"Unit {each.unit!r} is there twice. Give each unit once, with all its lists (unit_wins).")
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

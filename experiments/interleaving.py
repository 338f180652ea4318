"""Interleaving: two rankers judged within one list, by what one and the same unit chooses from it.

Team draft (Radlinski, Kurup and Joachims, "How does clickthrough data reflect retrieval quality?", CIKM 2008): in each
round a coin says which ranker drafts first; each then drafts the best of its own list that is not drafted yet. A click
is credited to the ranker that drafted the product. It sees which ranking is preferred with far fewer units than an A/B
test (Chapelle et al., TOIS 2012) and says nothing of revenue: run it in an arm beside A/B, or before it.

The coins come from a digest of salt, unit and list, so that a repeated request shows the same list and anyone can
recompute who drafted what.
"""

import hashlib
import math
from collections.abc import Hashable, Iterable, Iterator, Sequence
from statistics import NormalDist
from typing import Final, Generic, Literal, TypeVar

import msgspec

from experiments.kernel import DELIMITER

Item = TypeVar("Item", bound=Hashable)
Team = Literal["a", "b"]

_BITS: Final = 256


class Interleaved(msgspec.Struct, Generic[Item], frozen=True):
    """A blended list, best first, and the ranker that drafted each product."""

    items: tuple[Item, ...]
    teams: tuple[Team, ...]

    def team_of(self, item: Item) -> Team | None:
        """The ranker that drafted a product, None when it was not shown."""
        return next((team for shown, team in zip(self.items, self.teams, strict=True) if shown == item), None)

    def clicks(self, clicked: Iterable[Item]) -> tuple[int, int]:
        """The credit of `a` and `b`: their products that were clicked, each once; what was not shown counts nothing."""
        chosen = set(clicked)
        credited = [team for item, team in zip(self.items, self.teams, strict=True) if item in chosen]
        return credited.count("a"), credited.count("b")


def team_draft(
    a: Sequence[Item], b: Sequence[Item], length: int, *, salt: str, unit: str, list_id: str
) -> Interleaved[Item]:
    """Blends two rankings, each best first and without repetition, into at most `length` products.

    salt: of the comparison, its own. list_id: what distinguishes the unit's lists, such as a query or a request id.
    Raises ValueError for a ranking that names a product twice: the second would take the draft of another.
    """
    for name, ranking in (("a", a), ("b", b)):
        if len(set(ranking)) != len(ranking):
            raise ValueError(f"ranking {name!r} names a product twice; give each once.")
    coins = _coins(salt, unit, list_id)
    ways: dict[Team, Iterator[Item]] = {"a": iter(a), "b": iter(b)}
    drafted: dict[Item, Team] = {}
    while len(drafted) < length:
        before = len(drafted)
        order: tuple[Team, Team] = ("a", "b") if next(coins) else ("b", "a")
        for team in order:
            item = next((each for each in ways[team] if each not in drafted), None)
            if item is not None and len(drafted) < length:
                drafted[item] = team
        if len(drafted) == before:
            break
    return Interleaved(tuple(drafted), tuple(drafted.values()))


def _coins(salt: str, unit: str, list_id: str) -> Iterator[bool]:
    """I2: the bits of SHA-256(salt 0x1F block 0x1F list 0x1F unit), block after block."""
    block = 0
    while True:
        text = DELIMITER.join((salt, str(block), list_id, unit))
        bits = int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest(), "big")
        for i in range(_BITS - 1, -1, -1):
            yield bool(bits >> i & 1)
        block += 1


class UnitWins(msgspec.Struct, frozen=True):
    """The lists of one unit: those where `a` was clicked more, where `b` was, and where both were as often (a list
    without a click says nothing and counts nowhere).
    """

    unit: str
    a: int
    b: int
    ties: int

    @property
    def score(self) -> float:
        """From -1 (every list was won by `a`) to 1 (by `b`)."""
        return (self.b - self.a) / (self.a + self.b + self.ties)


def unit_wins(lists: Iterable[tuple[str, int, int]]) -> list[UnitWins]:
    """The input of the analysis, from (unit, clicks of a, clicks of b) of each list, by unit."""
    counts: dict[str, list[int]] = {}
    for unit, a, b in lists:
        if a or b:
            row = counts.setdefault(unit, [0, 0, 0])
            row[0 if a > b else 1 if b > a else 2] += 1
    return [UnitWins(unit, *counts[unit]) for unit in sorted(counts)]


class Preference(msgspec.Struct, frozen=True):
    """The mean score of the units that clicked: above 0, `b` is preferred. The interval is of 1 - `alpha`."""

    units: int
    score: float
    standard_error: float
    low: float
    high: float
    p_value: float


def preference(wins: Sequence[UnitWins], alpha: float = 0.05) -> Preference:
    """Which ranker units prefer. A unit counts once however many lists it saw: its lists are not independent.

    Normal approximation of the mean of the units' scores. Raises ValueError for fewer than two units.
    """
    if len(wins) < 2:
        raise ValueError(
            f"{len(wins)} unit(s) clicked; a comparison needs at least two, and some hundred to be of use."
        )
    scores = [each.score for each in wins]
    mean = math.fsum(scores) / len(scores)
    variance = math.fsum((score - mean) ** 2 for score in scores) / (len(scores) - 1)
    error = math.sqrt(variance / len(scores))
    normal = NormalDist()
    half = normal.inv_cdf(1 - alpha / 2) * error
    # Units that all score the same leave no doubt, or no difference.
    p_value = 2 * normal.cdf(-abs(mean) / error) if error else float(mean == 0)
    return Preference(len(scores), mean, error, mean - half, mean + half, p_value)

"""Interleaving: two rankers in one list, compared by what the same unit chooses from it.

Team draft (Radlinski, Kurup and Joachims, "How does clickthrough data reflect retrieval quality?", CIKM 2008): in each
round a coin decides which ranker drafts first; then each ranker drafts the best item of its own list that is not
drafted yet. A click is credited to the ranker that drafted the item. Interleaving finds the preferred ranking with far
fewer units than an A/B test (Chapelle et al., TOIS 2012), and measures no revenue: run it in an arm beside an A/B test,
or before one. `analysis.interleaving` evaluates the credit of many lists.

The coins come from a digest of salt, unit and list: a repeated request shows the same list, and anyone can recompute
who drafted which item.
"""

import hashlib
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Final, Generic, Literal, TypeVar

import msgspec

from experiments.kernel import DELIMITER

Item = TypeVar("Item", bound=Hashable)
Team = Literal["a", "b"]
"""The two rankers."""

_BITS: Final = 256


class Interleaved(msgspec.Struct, Generic[Item], frozen=True):
    """A blended list.

    Attributes:
        items: The items, best first.
        teams: The ranker that drafted each item.
    """

    items: tuple[Item, ...]
    teams: tuple[Team, ...]

    def team_of(self, item: Item) -> Team | None:
        """Return the ranker that drafted an item; None when the item was not shown."""
        return next((team for shown, team in zip(self.items, self.teams, strict=True) if shown == item), None)

    def clicks(self, clicked: Iterable[Item]) -> tuple[int, int]:
        """Return the credit of `a` and `b`: their clicked items, each counted once. Only shown items count."""
        chosen = set(clicked)
        credited = [team for item, team in zip(self.items, self.teams, strict=True) if item in chosen]
        return credited.count("a"), credited.count("b")


def team_draft(
    a: Sequence[Item], b: Sequence[Item], length: int, *, salt: str, unit: str, list_id: str
) -> Interleaved[Item]:
    """Blend two rankings into one list.

    Args:
        a: Items of the first ranker, best first, each once.
        b: Items of the second ranker, best first, each once.
        length: Maximum length of the list.
        salt: Salt of this pair of rankers; no other pair may have it.
        unit: The unit id.
        list_id: Distinguishes the lists of a unit, such as a query or a request id.

    Raises:
        ValueError: A ranking has an item twice; the second one would take the draft of another item.
    """
    for name, ranking in (("a", a), ("b", b)):
        if len(set(ranking)) != len(ranking):
            raise ValueError(f"ranking {name!r} has an item twice; give each item once.")
    coins = _coins(salt, unit, list_id)
    rankings: dict[Team, Iterator[Item]] = {"a": iter(a), "b": iter(b)}
    drafted: dict[Item, Team] = {}
    while len(drafted) < length:
        before = len(drafted)
        order: tuple[Team, Team] = ("a", "b") if next(coins) else ("b", "a")
        for team in order:
            item = next((each for each in rankings[team] if each not in drafted), None)
            if item is not None and len(drafted) < length:
                drafted[item] = team
        if len(drafted) == before:
            break
    return Interleaved(tuple(drafted), tuple(drafted.values()))


def _coins(salt: str, unit: str, list_id: str) -> Iterator[bool]:
    """Yield the coins (rule I2): the bits of SHA-256(salt 0x1F block 0x1F list 0x1F unit), block by block."""
    block = 0
    while True:
        text = DELIMITER.join((salt, str(block), list_id, unit))
        bits = int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest(), "big")
        for i in range(_BITS - 1, -1, -1):
            yield bool(bits >> i & 1)
        block += 1

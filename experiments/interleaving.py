"""Interleaving: two rankers judged within one list, by what one and the same unit chooses from it.

Team draft (Radlinski, Kurup and Joachims, "How does clickthrough data reflect retrieval quality?", CIKM 2008): in each
round a coin says which ranker drafts first; each then drafts the best of its own list that is not drafted yet. A click
is credited to the ranker that drafted the product. It sees which ranking is preferred with far fewer units than an A/B
test (Chapelle et al., TOIS 2012) and says nothing of revenue: run it in an arm beside A/B, or before it. What the
credit of many lists says is for `analysis.interleaving`.

The coins come from a digest of salt, unit and list, so that a repeated request shows the same list and anyone can
recompute who drafted what.
"""

import hashlib
from collections.abc import Hashable, Iterable, Iterator, Sequence
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

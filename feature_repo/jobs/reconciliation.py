"""Comparing the rows that a run has written with the online store, by version and checksum."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypedDict

import msgspec

from feature_repo.jobs.shards import ROW_STATES, ComparedShard, RowState


class DifferingShard(TypedDict):
    """A shard whose sides differ: its number, the hexadecimal checksums of both sides, and its rows by state."""

    shard: int
    history: str
    online: str
    equal: int
    fresher: int
    missing: int
    older: int
    different: int


class Reconciliation(msgspec.Struct, frozen=True, kw_only=True):
    """The rows of a run, read back from the online store. Without a difference, `equal + fresher = products`.

    Attributes:
        products: Rows of the history that were compared.
        equal: Rows of the same version with the same bytes.
        fresher: Rows whose online version is newer than the history that was read.
        missing: Rows that are not online.
        older: Rows whose online version is older.
        different: Rows of the same version with other bytes.
        shards: The number of compared shards.
        checksum: The hexadecimal checksum of the equal rows, of both sides.
        differing_shards: The shards whose sides differ.
        online_rows: Rows of the whole view online, tombstones included; None unless the run read the whole history.
        unexplained: Those of them that the history does not have; None unless the run read the whole history.
    """

    products: int
    equal: int
    fresher: int
    missing: int
    older: int
    different: int
    shards: int
    checksum: str
    differing_shards: list[DifferingShard]
    online_rows: int | None
    unexplained: int | None

    @property
    def ok(self) -> bool:
        """Whether both sides agree."""
        return not (self.missing or self.older or self.different or self.unexplained)

    def difference(self, view: str) -> str:
        """Describe the difference and its remedy; '' if both sides agree."""
        if self.ok:
            return ""
        counts = {
            "missing": self.missing,
            "older": self.older,
            "different": self.different,
            "unexplained": self.unexplained,
        }
        parts = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        return (
            f"{view} differs from its history online: {parts}. Run it with --full; if that does not help, check the "
            "rows."
        )


def reconcile(
    shards: Iterable[ComparedShard], online_rows: int | None = None, *, history_changed: bool = False
) -> Reconciliation:
    """Sum up compared shards.

    Args:
        shards: The shards, in any order.
        online_rows: The rows of the whole view online, if the shards are the whole history.
        history_changed: Whether another process wrote to the history during the run: its rows are not unexplained.
    """
    counts: dict[RowState, int] = dict.fromkeys(ROW_STATES, 0)
    differing: list[DifferingShard] = []
    number = checksum = 0
    for shard in shards:
        number += 1
        checksum ^= shard.history
        for state, rows in shard.counts.items():
            counts[state] += rows
        if shard.history != shard.online or shard.counts["missing"] or shard.counts["older"]:
            sums = {"history": f"{shard.history:08x}", "online": f"{shard.online:08x}"}
            differing.append({"shard": shard.number, **sums, **shard.counts})  # type: ignore[typeddict-item]
    products = sum(counts.values())
    unexplained = None
    if online_rows is not None:
        unexplained = 0 if history_changed else max(online_rows - products, 0)
    return Reconciliation(
        products=products,
        **counts,
        shards=number,
        checksum=f"{checksum:08x}",
        differing_shards=sorted(differing, key=lambda shard: shard["shard"]),
        online_rows=online_rows,
        unexplained=unexplained,
    )

"""A fake of the experiment store for tests of the sink."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from sqlalchemy.exc import DataError, OperationalError

from experiments.event_rows import EventRow
from experiments.event_writer import Rejected, WriteResult


class FakeDatabase:
    """Rows by event id, and offsets: all of a batch or nothing. Refuses rows as a real database does."""

    def __init__(self) -> None:
        self.rows: dict[str, EventRow] = {}
        self.logs: dict[str, dict[tuple[str, int], int]] = {}
        self.down = False
        self.transactions = 0

    @property
    def written_offsets(self) -> dict[tuple[str, int], int]:
        return self.logs.get("log", {})

    def rejected(self, rows: Sequence[EventRow]) -> tuple[Rejected, ...]:
        return tuple(Rejected(i, r, "no such experiment") for i, r in enumerate(rows) if r.experiment == "unknown")

    def write_events(self, rows: Sequence[EventRow], offsets: Mapping[tuple[str, int], int], log: str) -> WriteResult:
        self.transactions += 1
        if self.down:
            raise OperationalError("insert", {}, Exception("locked"))
        if any(row.query == "too much for the engine" for row in rows):
            raise DataError("insert", {}, Exception("out of range"))
        assert not self.rejected(rows), "the sink removes rejected rows before the transaction"
        fresh = {r.event_id: r for r in rows if r.event_id not in self.rows}
        self.rows |= fresh
        self.logs.setdefault(log, {}).update(offsets)
        return WriteResult(len(fresh), len(rows) - len(fresh), ())

    def offsets(self, topic: str, log: str) -> dict[int, int]:
        return {partition: o for (name, partition), o in self.logs.get(log, {}).items() if name == topic}

    def forget_offsets(self, topic: str, log: str, partitions: Collection[int]) -> None:
        for partition in partitions:
            del self.logs[log][topic, partition]

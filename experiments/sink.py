"""One batch of events into SQL: rows, first exposures and offsets in one transaction that the caller holds.

Whatever the order in which batches arrive, and however often, the tables come out the same: rows are kept
once by event id, the first exposure keeps the least time and remembers that a second arm was seen, an offset
of one log never goes back.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Table, and_, case, or_, select
from sqlalchemy.dialects import postgresql, sqlite

from experiments import config, tables
from experiments.events import (
    ENGAGEMENTS,
    ORDER_KINDS,
    EventRow,
    engagement_values,
    exposure_values,
    order_values,
    problem,
)

_TABLE_OF: Final = {
    "exposure": (tables.exposure, exposure_values),
    **dict.fromkeys(ENGAGEMENTS, (tables.engagement, engagement_values)),
    **dict.fromkeys(ORDER_KINDS, (tables.order_event, order_values)),
}


class Rejected(msgspec.Struct, frozen=True):
    """A row that was not written: its position in the batch, and why, for the dead letters."""

    index: int
    row: EventRow
    reason: str


class WriteResult(msgspec.Struct, frozen=True):
    """What became of a batch: every row is written, a duplicate of one that was there, or rejected."""

    written: int
    duplicate: int
    rejected: tuple[Rejected, ...]


class ArmsOfVersions:
    """The arms of published versions. Versions are immutable, so what was found once stays true; misses
    are asked again.
    """

    def __init__(self) -> None:
        self._arms: dict[tuple[str, int], frozenset[str]] = {}

    def load(self, connection: Connection, rows: Iterable[EventRow]) -> None:
        """Fetches the versions that the rows name and that are not known yet, in one query."""
        named = {row.experiment for row in rows if row.kind == "exposure" and self._unknown(row)}
        if not named:
            return
        version = tables.experiment_version.c
        query = select(version.experiment, version.version, version.config).where(version.experiment.in_(named))
        for key, number, text in connection.execute(query):
            self._arms[key, number] = frozenset(arm.key for arm in config.from_json(text).arms)

    def _unknown(self, row: EventRow) -> bool:
        return (row.experiment, row.config_version) not in self._arms

    def problem(self, row: EventRow) -> str | None:
        """Why an exposure matches no published version; None when it does."""
        if row.experiment is None or row.config_version is None:
            return "exposure without experiment or config_version"
        arms = self._arms.get((row.experiment, row.config_version))
        if arms is None:
            return f"experiment {row.experiment!r} has no published version {row.config_version}"
        if row.arm not in arms:
            return f"version {row.config_version} of experiment {row.experiment!r} has no arm {row.arm!r}"
        return None


def reject(connection: Connection, rows: Sequence[EventRow], arms: ArmsOfVersions) -> tuple[Rejected, ...]:
    """The rows that no table can take, and the exposures of an unknown experiment, version or arm; only reads."""
    faults = [problem(row) for row in rows]
    arms.load(connection, (row for row, fault in zip(rows, faults, strict=True) if fault is None))
    rejected: list[Rejected] = []
    for index, (row, fault) in enumerate(zip(rows, faults, strict=True)):
        if reason := fault or (arms.problem(row) if row.kind == "exposure" else None):
            rejected.append(Rejected(index, row, reason))
    return tuple(rejected)


def write(
    connection: Connection,
    rows: Sequence[EventRow],
    offsets: Mapping[tuple[str, int], int],
    log: str,
    arms: ArmsOfVersions,
    ingested_at: int,
) -> WriteResult:
    """Writes a batch inside the caller's transaction. `offsets` maps (topic, partition) to the next offset
    to read in the log that `log` identifies.
    """
    rejected = reject(connection, rows, arms)
    refused = {each.index for each in rejected}
    values: dict[Table, list[dict[str, Any]]] = {}
    for index, row in enumerate(rows):
        if index not in refused:
            table, values_of = _TABLE_OF[row.kind]
            values.setdefault(table, []).append(values_of(row, ingested_at))
    written = 0
    for table, table_values in values.items():
        # In one order, so that two sinks that write the same rows wait for each other instead of deadlocking.
        table_values.sort(key=lambda row_values: str(row_values["event_id"]))
        statement = _insert(connection, table).on_conflict_do_nothing(index_elements=["event_id"])
        result = connection.execute(statement, table_values, execution_options={"preserve_rowcount": True})
        written += result.rowcount
    if tables.exposure in values:
        _write_first_exposures(connection, values[tables.exposure])
    _write_offsets(connection, offsets, log)
    return WriteResult(written, len(rows) - len(rejected) - written, rejected)


def _insert(connection: Connection, table: Table) -> Any:
    # Both dialects spell ON CONFLICT alike; SQLAlchemy has one class for each.
    return (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(table)


def _write_first_exposures(connection: Connection, exposures: list[dict[str, Any]]) -> None:
    first: dict[tuple[str, str], tuple[str, int]] = {}
    for row in exposures:
        key, arm, time = (row["experiment"], row["unit_id"]), row["arm"], row["event_time"]
        if key in first:
            known_arm, known_time = first[key]
            arm = known_arm if known_arm == arm else tables.MULTIPLE_ARMS
            time = min(known_time, time)
        first[key] = arm, time
    table = tables.first_exposure
    statement = _insert(connection, table)
    new, old = statement.excluded, table.c
    other_arm = and_(old.arm != new.arm, old.arm != tables.MULTIPLE_ARMS)
    statement = statement.on_conflict_do_update(
        index_elements=["experiment", "unit_id"],
        set_={
            "arm": case((old.arm != new.arm, tables.MULTIPLE_ARMS), else_=old.arm),
            "first_time": case((new.first_time < old.first_time, new.first_time), else_=old.first_time),
        },
        where=or_(other_arm, new.first_time < old.first_time),
    )
    connection.execute(
        statement,
        [
            {"experiment": experiment, "unit_id": unit, "arm": arm, "first_time": time}
            for (experiment, unit), (arm, time) in sorted(first.items())
        ],
    )


def _write_offsets(connection: Connection, offsets: Mapping[tuple[str, int], int], log: str) -> None:
    if not offsets:
        return
    table = tables.sink_offset
    statement = _insert(connection, table)
    statement = statement.on_conflict_do_update(
        index_elements=["log", "topic", "partition"],
        set_={"next_offset": statement.excluded.next_offset},
        # A batch that is replayed late must not send the consumer back over what is written.
        where=statement.excluded.next_offset > table.c.next_offset,
    )
    connection.execute(
        statement,
        [
            {"log": log, "topic": topic, "partition": partition, "next_offset": offset}
            for (topic, partition), offset in sorted(offsets.items())
        ],
    )

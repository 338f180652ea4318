"""One batch of events into SQL: rows, first exposures and offsets in one transaction that the caller holds.

Whatever the order in which batches arrive, and however often, the tables come out the same: rows are kept
once by event id, the first exposure of a phase keeps the least time and remembers that a second arm was seen, an
offset of one log never goes back.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import ColumnElement, Connection, Select, Table, and_, case, collate, column, or_, select
from sqlalchemy import table as lightweight_table
from sqlalchemy.dialects import postgresql, sqlite

from experiments import config, tables
from experiments.event_rows import (
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


class KnownVersions:
    """The arms and the phase of published versions. Versions are immutable, so what was found once stays true; misses
    are asked again.
    """

    def __init__(self) -> None:
        self._arms: dict[tuple[str, int], frozenset[str]] = {}
        self._phases: dict[tuple[str, int], int] = {}

    def load(self, connection: Connection, rows: Iterable[EventRow]) -> None:
        """Fetches the versions that the rows name and that are not known yet, in one query."""
        named = {row.experiment for row in rows if row.kind == "exposure" and self._unknown(row)}
        if not named:
            return
        version = tables.experiment_version.c
        query = select(version.experiment, version.version, version.phase, version.config).where(
            version.experiment.in_(named)
        )
        for key, number, phase, text in connection.execute(query):
            self._arms[key, number] = frozenset(arm.key for arm in config.from_json(text).arms)
            self._phases[key, number] = int(phase)

    def _unknown(self, row: EventRow) -> bool:
        return (row.experiment, row.config_version) not in self._arms

    def phase(self, experiment: str, version: int) -> int:
        """Of a version that is known."""
        return self._phases[experiment, version]

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


def reject(connection: Connection, rows: Sequence[EventRow], versions: KnownVersions) -> tuple[Rejected, ...]:
    """The rows that no table can take, and the exposures of an unknown experiment, version or arm; only reads."""
    faults = [problem(row) for row in rows]
    versions.load(connection, (row for row, fault in zip(rows, faults, strict=True) if fault is None))
    rejected: list[Rejected] = []
    for index, (row, fault) in enumerate(zip(rows, faults, strict=True)):
        if reason := fault or (versions.problem(row) if row.kind == "exposure" else None):
            rejected.append(Rejected(index, row, reason))
    return tuple(rejected)


def write(
    connection: Connection,
    rows: Sequence[EventRow],
    offsets: Mapping[tuple[str, int], int],
    log: str,
    versions: KnownVersions,
    ingested_at: int,
) -> WriteResult:
    """Writes a batch inside the caller's transaction. `offsets` maps (topic, partition) to the next offset
    to read in the log that `log` identifies.
    """
    rejected = reject(connection, rows, versions)
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
        written += _write_new(connection, table, table_values)
    if tables.exposure in values:
        _write_first_exposures(connection, values[tables.exposure], versions)
    _write_offsets(connection, offsets, log)
    return WriteResult(written, len(rows) - len(rejected) - written, rejected)


def _insert(connection: Connection, table: Table) -> Any:
    # Both dialects spell ON CONFLICT alike; SQLAlchemy has one class for each.
    return (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(table)


def _write_new(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> int:
    """Inserts the rows whose event id is not there yet; how many these were."""
    statement = _insert(connection, table).on_conflict_do_nothing(index_elements=["event_id"])
    return _execute_many(connection, statement, rows)


def _execute_many(connection: Connection, statement: Any, rows: list[dict[str, Any]]) -> int:
    """An INSERT of many rows, in their order; how many it wrote."""
    counted = {"preserve_rowcount": True}
    if (connection.dialect.name, connection.dialect.driver) == ("postgresql", "psycopg"):
        # COPY into a table of this connection, and one statement from there: no round trip for each row.
        table: Table = statement.table
        names = list(rows[0])
        statement = statement.from_select(names, _copy(connection, table, names, rows))
        return connection.execute(statement, execution_options=counted).rowcount
    return connection.execute(statement, rows, execution_options=counted).rowcount


def _copy(connection: Connection, table: Table, names: list[str], rows: list[dict[str, Any]]) -> Select[Any]:
    """The rows in a temporary table, which is empty again at the end of the transaction; its constraints are those of
    the table that they go to.
    """
    name = f"staged_{table.name}"
    connection.exec_driver_sql(
        f"create temporary table if not exists {name} (like {table.name} including defaults) on commit delete rows"
    )
    cursor = connection.connection.cursor()
    try:
        with cursor.copy(f"copy {name} ({', '.join(names)}) from stdin") as copy:
            for row in rows:
                copy.write_row([row[each] for each in names])
    finally:
        cursor.close()
    staged = lightweight_table(name, *(column(each) for each in names))
    return select(staged).order_by(*(staged.c[key.name] for key in table.primary_key))


def _write_first_exposures(connection: Connection, exposures: list[dict[str, Any]], versions: KnownVersions) -> None:
    first: dict[tuple[str, int, str], tuple[str, int, str]] = {}
    for row in exposures:
        phase = versions.phase(row["experiment"], row["config_version"])
        key, arm = (row["experiment"], phase, row["unit_id"]), row["arm"]
        # Of one instant the lesser text, so that the order of arrival decides nothing.
        time, attributes = row["event_time"], row["attributes"]
        if key in first:
            known_arm, *earlier = first[key]
            arm = known_arm if known_arm == arm else tables.MULTIPLE_ARMS
            time, attributes = min((time, attributes), tuple(earlier))
        first[key] = arm, time, attributes
    table = tables.first_exposure_by_phase
    statement = _insert(connection, table)
    new, old = statement.excluded, table.c
    other_arm = and_(old.arm != new.arm, old.arm != tables.MULTIPLE_ARMS)
    is_lesser = _by_code_point(connection, new.attributes) < _by_code_point(connection, old.attributes)
    is_earlier = or_(new.first_time < old.first_time, and_(new.first_time == old.first_time, is_lesser))
    statement = statement.on_conflict_do_update(
        index_elements=["experiment", "phase", "unit_id"],
        set_={
            "arm": case((old.arm != new.arm, tables.MULTIPLE_ARMS), else_=old.arm),
            "first_time": case((is_earlier, new.first_time), else_=old.first_time),
            "attributes": case((is_earlier, new.attributes), else_=old.attributes),
        },
        where=or_(other_arm, is_earlier),
    )
    _execute_many(
        connection,
        statement,
        [
            {
                "experiment": experiment,
                "phase": phase,
                "unit_id": unit,
                "arm": arm,
                "first_time": time,
                "attributes": attributes,
            }
            for (experiment, phase, unit), (arm, time, attributes) in sorted(first.items())
        ],
    )


def _by_code_point(connection: Connection, text: ColumnElement[str]) -> ColumnElement[str]:
    """A text that is compared as Python does, whatever the database's language."""
    return collate(text, "C") if connection.dialect.name == "postgresql" else text


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

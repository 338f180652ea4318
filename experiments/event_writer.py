"""Writes one batch of events: rows, first exposures and offsets in one transaction that the caller holds.

The tables do not depend on the order of the batches, or on how often a batch is written: each event id has one row, the
first exposure of a phase keeps the earliest time and marks a unit that was seen in two arms, and an offset never goes
back.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, Select, Table, and_, case, collate, column, or_, select
from sqlalchemy import table as lightweight_table
from sqlalchemy.dialects import postgresql, sqlite

from experiments import tables
from experiments.config_parsing import from_json
from experiments.event_rows import EventRow, row_problem, table_row


class Rejected(msgspec.Struct, frozen=True):
    """A row that is not written, for the dead letters.

    Attributes:
        index: Position in the batch.
        row: The row.
        reason: Why it is not written.
    """

    index: int
    row: EventRow
    reason: str


class WriteResult(msgspec.Struct, frozen=True):
    """The result of a batch. Every row is written, a duplicate of a stored row, or rejected.

    Attributes:
        written: Number of new rows.
        duplicate: Number of rows whose event id was stored before.
        rejected: The rejected rows.
    """

    written: int
    duplicate: int
    rejected: tuple[Rejected, ...]


class PublishedVersions:
    """A cache of the arms and phases of published versions.

    Versions are immutable, so a cached version stays valid. A version that is missing is queried again.
    """

    def __init__(self) -> None:
        self._arms: dict[tuple[str, int], frozenset[str]] = {}
        self._phases: dict[tuple[str, int], int] = {}

    def load(self, connection: Connection, rows: Iterable[EventRow]) -> None:
        """Fetch the versions of these exposures that are not cached yet, in one query."""
        missing = {row.experiment for row in rows if row.kind == "exposure" and not self._is_cached(row)}
        if not missing:
            return
        version = tables.experiment_version.c
        query = select(version.experiment, version.version, version.phase, version.config).where(
            version.experiment.in_(missing)
        )
        for key, number, phase, text in connection.execute(query):
            self._arms[key, number] = frozenset(arm.key for arm in from_json(text).arms)
            self._phases[key, number] = int(phase)

    def _is_cached(self, row: EventRow) -> bool:
        return (row.experiment, row.config_version) in self._arms

    def phase(self, experiment: str, version: int) -> int:
        """Return the phase of a version that is cached."""
        return self._phases[experiment, version]

    def problem(self, row: EventRow) -> str | None:
        """Return why an exposure matches no published version; None when it matches one."""
        if row.experiment is None or row.config_version is None:
            return "exposure without experiment or config_version"
        arms = self._arms.get((row.experiment, row.config_version))
        if arms is None:
            return f"experiment {row.experiment!r} has no published version {row.config_version}"
        if row.arm not in arms:
            return f"version {row.config_version} of experiment {row.experiment!r} has no arm {row.arm!r}"
        return None


def reject(connection: Connection, rows: Sequence[EventRow], versions: PublishedVersions) -> tuple[Rejected, ...]:
    """Return the rows that cannot be written; only reads.

    Args:
        connection: Connection with an open transaction.
        rows: A batch of events.
        versions: Cache of published versions.

    Returns:
        Rows that no table can store, and exposures of an unknown experiment, version or arm.
    """
    problems = [row_problem(row) for row in rows]
    versions.load(connection, (row for row, problem in zip(rows, problems, strict=True) if problem is None))
    rejected: list[Rejected] = []
    for index, (row, problem) in enumerate(zip(rows, problems, strict=True)):
        if reason := problem or (versions.problem(row) if row.kind == "exposure" else None):
            rejected.append(Rejected(index, row, reason))
    return tuple(rejected)


def write(
    connection: Connection,
    rows: Sequence[EventRow],
    offsets: Mapping[tuple[str, int], int],
    log: str,
    versions: PublishedVersions,
    ingested_at: int,
) -> WriteResult:
    """Write a batch inside the caller's transaction.

    Args:
        connection: Connection with an open transaction that writes.
        rows: A batch of events.
        offsets: Next offset to read, by (topic, partition).
        log: Identifies the log in which the offsets count.
        versions: Cache of published versions.
        ingested_at: Time of the write in microseconds UTC.
    """
    rejected = reject(connection, rows, versions)
    rejected_indexes = {each.index for each in rejected}
    values: dict[Table, list[dict[str, Any]]] = {}
    for index, row in enumerate(rows):
        if index not in rejected_indexes:
            table, row_values = table_row(row, ingested_at)
            values.setdefault(table, []).append(row_values)
    written = 0
    for table, table_values in values.items():
        # A fixed order: two sinks that write the same rows wait for each other and do not deadlock.
        table_values.sort(key=lambda row_values: str(row_values["event_id"]))
        written += _write_new(connection, table, table_values)
    if tables.exposure in values:
        _write_first_exposures(connection, values[tables.exposure], versions)
    _write_offsets(connection, offsets, log)
    return WriteResult(written, len(rows) - len(rejected) - written, rejected)


def _insert(connection: Connection, table: Table) -> Any:
    # The syntax of ON CONFLICT is the same; SQLAlchemy has one class for each dialect.
    return (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(table)


def _write_new(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> int:
    """Insert the rows whose event id is new; return how many."""
    statement = _insert(connection, table).on_conflict_do_nothing(index_elements=["event_id"])
    return _execute_many(connection, statement, rows)


def _execute_many(connection: Connection, statement: Any, rows: list[dict[str, Any]]) -> int:
    """Execute an INSERT of many rows, in their order; return how many it wrote."""
    counted = {"preserve_rowcount": True}
    if (connection.dialect.name, connection.dialect.driver) == ("postgresql", "psycopg"):
        # COPY into a temporary table and insert from there in one statement: no round trip for each row.
        table: Table = statement.table
        names = list(rows[0])
        statement = statement.from_select(names, _copy(connection, table, names, rows))
        return connection.execute(statement, execution_options=counted).rowcount
    return connection.execute(statement, rows, execution_options=counted).rowcount


def _copy(connection: Connection, table: Table, names: list[str], rows: list[dict[str, Any]]) -> Select[Any]:
    """Copy rows into a temporary table with the columns of `table`; it is empty again after the transaction.

    Returns:
        A query that selects the rows in the order of the primary key.
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


def _write_first_exposures(
    connection: Connection, exposures: list[dict[str, Any]], versions: PublishedVersions
) -> None:
    table = tables.first_exposure_by_phase
    statement = _insert(connection, table)
    new, old = statement.excluded, table.c
    other_arm = and_(old.arm != new.arm, old.arm != tables.MULTIPLE_ARMS)
    is_smaller = _by_code_point(connection, new.attributes) < _by_code_point(connection, old.attributes)
    is_earlier = or_(new.first_time < old.first_time, and_(new.first_time == old.first_time, is_smaller))
    statement = statement.on_conflict_do_update(
        index_elements=["experiment", "phase", "unit_id"],
        set_={
            "arm": case((old.arm != new.arm, tables.MULTIPLE_ARMS), else_=old.arm),
            "first_time": case((is_earlier, new.first_time), else_=old.first_time),
            "attributes": case((is_earlier, new.attributes), else_=old.attributes),
        },
        where=or_(other_arm, is_earlier),
    )
    _execute_many(connection, statement, _first_exposures(exposures, versions))


def _first_exposures(exposures: list[dict[str, Any]], versions: PublishedVersions) -> list[dict[str, Any]]:
    """Reduce a batch of exposures to one row for each experiment, phase and unit, sorted by these."""
    first: dict[tuple[str, int, str], tuple[str, int, str]] = {}
    for row in exposures:
        phase = versions.phase(row["experiment"], row["config_version"])
        key, arm = (row["experiment"], phase, row["unit_id"]), row["arm"]
        # At the same time the smaller text wins, so that the order of arrival does not matter.
        time, attributes = row["event_time"], row["attributes"]
        if key in first:
            earlier_arm, *earlier = first[key]
            arm = earlier_arm if earlier_arm == arm else tables.MULTIPLE_ARMS
            time, attributes = min((time, attributes), tuple(earlier))
        first[key] = arm, time, attributes
    names = ("experiment", "phase", "unit_id", "arm", "first_time", "attributes")
    return [dict(zip(names, (*key, *values), strict=True)) for key, values in sorted(first.items())]


def _by_code_point(connection: Connection, text: ColumnElement[str]) -> ColumnElement[str]:
    """Compare text by code points as Python does, whatever the database's collation."""
    return collate(text, "C") if connection.dialect.name == "postgresql" else text


def _write_offsets(connection: Connection, offsets: Mapping[tuple[str, int], int], log: str) -> None:
    if not offsets:
        return
    table = tables.sink_offset
    statement = _insert(connection, table)
    statement = statement.on_conflict_do_update(
        index_elements=["log", "topic", "partition"],
        set_={"next_offset": statement.excluded.next_offset},
        # A batch that is replayed late must not move the offset back.
        where=statement.excluded.next_offset > table.c.next_offset,
    )
    connection.execute(
        statement,
        [
            {"log": log, "topic": topic, "partition": partition, "next_offset": offset}
            for (topic, partition), offset in sorted(offsets.items())
        ],
    )

"""Checks every available implementation of assignment against the conformance vectors (`assignment_vectors`)."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

import msgspec

from experiments import kernel, warehouse_sql
from experiments.assignment import Reason
from experiments.assignment_vectors import Case, DrawVector, Vectors
from experiments.evaluator import prepare_all

if TYPE_CHECKING:
    from sqlalchemy import Engine

Pair = tuple[int | None, int | None]
"""Gate and split bucket."""

Answer = tuple[str | None, str]
"""Arm and reason."""

Draw = Callable[[Sequence[DrawVector]], list[Pair]]
"""An implementation of draws: one pair for each vector."""

Assign = Callable[[Case], list[Answer]]
"""An implementation of assignment: one answer for each expected assignment of a case."""


class ConformanceResult(msgspec.Struct, frozen=True):
    """The result of one implementation.

    Attributes:
        implementation: Its name.
        vectors: Which vectors it was checked against.
        checked: Number of vectors.
        wrong: A line for each vector that it got wrong.
        absent: Why it was not checked; None when it was.
    """

    implementation: str
    vectors: str
    checked: int
    wrong: tuple[str, ...] = ()
    absent: str | None = None


def check(vectors: Vectors, postgresql: Engine | None = None, spark: Any = None) -> list[ConformanceResult]:
    """Check every available implementation.

    Args:
        vectors: The vectors.
        postgresql: Engine of a PostgreSQL database; None to leave it out.
        spark: Spark session; None to leave it out.
    """
    results = [_check_draws(name, draw, vectors) for name, draw in DRAWS.items()]
    if postgresql is None:
        results.append(ConformanceResult("PostgreSQL", "draws", 0, absent="no PostgreSQL database was named"))
    else:
        results.append(_check_draws("PostgreSQL", lambda draws: by_postgresql(draws, postgresql), vectors, nul=False))
    if spark is None:
        results.append(ConformanceResult("Spark", "draws of sha256", 0, absent="no Spark session was given"))
    else:
        results.append(_check_draws("Spark", lambda draws: by_spark(draws, spark), _draws_of(vectors, "sha256")))
    if find_spec("growthbook") is None:
        reason = "the package growthbook is not installed"
        results.append(ConformanceResult("GrowthBook's SDK", "draws of gb2", 0, absent=reason))
    else:
        results.append(_check_draws("GrowthBook's SDK", by_growthbook, _draws_of(vectors, "gb2")))
    results += [check_assignments(name, assign, vectors) for name, assign in ASSIGNMENTS.items()]
    return results


def check_assignments(name: str, assign: Assign, vectors: Vectors) -> ConformanceResult:
    """Check any implementation of assignment, such as a service that has the experiments of a case.

    Args:
        name: Name of the implementation.
        assign: The implementation.
        vectors: The vectors.
    """
    checked, wrong = 0, []
    for case in vectors.cases:
        for expected, answer in zip(case.assignments, assign(case), strict=True):
            checked += 1
            if answer != (expected.arm, expected.reason):
                unit = ascii(expected.unit)[:40]
                wrong.append(f"{case.name}, unit {unit}: {answer}, not {(expected.arm, expected.reason)}")
    return ConformanceResult(name, "assignments", checked, tuple(wrong))


def failures(results: Sequence[ConformanceResult]) -> Iterator[str]:
    """Yield a line for each vector that an implementation got wrong."""
    for result in results:
        for wrong in result.wrong:
            yield f"{result.implementation}: {wrong}"


def _draws_of(vectors: Vectors, hash_version: kernel.HashVersion) -> Vectors:
    draws = tuple(draw for draw in vectors.draws if draw.hash_version == hash_version)
    return msgspec.structs.replace(vectors, draws=draws)


def _check_draws(name: str, draw: Draw, vectors: Vectors, *, nul: bool = True) -> ConformanceResult:
    """Check an implementation of draws. With `nul=False`, leave out units with a NUL, which PostgreSQL cannot store."""
    expected = [vector for vector in vectors.draws if nul or "\0" not in vector.unit]
    wrong = [
        f"{d.hash_version} salt {d.salt!r} unit {ascii(d.unit)[:40]}: {pair}, not {(d.gate, d.split)}"
        for d, pair in zip(expected, draw(expected), strict=True)
        if pair != (d.gate, d.split)
    ]
    return ConformanceResult(name, "draws", len(expected), tuple(wrong))


def by_the_words(draws: Sequence[DrawVector]) -> list[Pair]:
    """Compute K1 to K8 as the specification says: slice hexadecimal text, hash letter by letter."""

    def fnv(text: str) -> int:
        number = 2_166_136_261
        units = text.encode("utf-16-be")
        for i in range(0, len(units), 2):
            number = (number ^ int.from_bytes(units[i : i + 2], "big")) * 16_777_619 % 2**32
        return number

    def pair(draw: DrawVector) -> Pair:
        if draw.hash_version == "gb2":
            bucket = fnv(str(fnv(draw.salt + draw.unit))) % 10_000
            return bucket, bucket
        digits = hashlib.sha256(draw.salt.encode() + b"\x1f" + draw.unit.encode()).hexdigest()
        return int(digits[:15], 16) % 10_000, int(digits[15:30], 16) % 10_000

    return [pair(draw) for draw in draws]


def by_kernel(draws: Sequence[DrawVector]) -> list[Pair]:
    """Draw with `kernel.buckets`, one unit at a time."""
    return [tuple(kernel.buckets(d.salt, d.unit, d.hash_version)) for d in draws]  # type: ignore[misc]


def by_column(draws: Sequence[DrawVector]) -> list[Pair]:
    """Draw with `kernel.bucket_column`. Its -1 for an invalid unit agrees with the file when the file has a reason."""
    columns: dict[tuple[str, str], kernel.BucketColumns] = {}
    units = [d.unit for d in draws]
    for key in {(d.salt, d.hash_version) for d in draws}:
        columns[key] = kernel.bucket_column(key[0], units, key[1])
    return [
        (d.gate, d.split) if d.reason and column.gate[i] == -1 else (int(column.gate[i]), int(column.split[i]))
        for i, (d, column) in enumerate((d, columns[d.salt, d.hash_version]) for d in draws)
    ]


def by_sqlite(draws: Sequence[DrawVector]) -> list[Pair]:
    """Draw with the functions of `warehouse_sql.register_sqlite`."""
    with closing(sqlite3.connect(":memory:")) as connection:
        warehouse_sql.register_sqlite(connection)
        queries = {"sha256": "select gate_bucket(?1, ?2), split_bucket(?1, ?2)"}
        queries["gb2"] = "select gb2_bucket(?1, ?2), gb2_bucket(?1, ?2)"
        return [connection.execute(queries[d.hash_version], (d.salt, d.unit)).fetchone() for d in draws]


def by_duckdb(draws: Sequence[DrawVector]) -> list[Pair]:
    """Draw with DuckDB's SQL."""
    import duckdb

    with duckdb.connect() as connection:
        connection.execute(warehouse_sql.GB2_FUNCTIONS["duckdb"])
        pairs: list[Pair] = []
        for d in draws:
            query = f"select {_columns('duckdb', d, 'unit')} from (select $1::varchar as unit)"
            pairs.append(connection.execute(query, [d.unit]).fetchone() or (None, None))
        return pairs


def by_postgresql(draws: Sequence[DrawVector], engine: Engine) -> list[Pair]:
    """Draw with PostgreSQL's SQL, in a transaction that is rolled back: the functions of S2 do not stay."""
    from sqlalchemy import text

    with engine.connect() as connection:
        connection.execute(text(_escaped(warehouse_sql.GB2_FUNCTIONS["postgresql"])))
        pairs: list[Pair] = []
        for d in draws:
            columns = _escaped(_columns("postgresql", d, "UNIT")).replace("UNIT", "cast(:unit as text)")
            row = connection.execute(text(f"select {columns}"), {"unit": d.unit}).one()
            pairs.append((row[0], row[1]))
        connection.rollback()
    return pairs


def by_spark(draws: Sequence[DrawVector], session: Any) -> list[Pair]:
    """Draw `sha256` with Spark's SQL, in one query."""

    def column(which: warehouse_sql.Draw) -> str:
        salts = sorted({draw.salt for draw in draws})
        cases = [f"when '{s}' then {warehouse_sql.bucket_sql('spark', which, salt=s, unit='unit')}" for s in salts]
        return f"case salt {' '.join(cases)} end"

    rows = [(i, draw.salt, draw.unit) for i, draw in enumerate(draws)]
    frame = session.createDataFrame(rows, "i int, salt string, unit string")
    pairs = {i: (gate, split) for i, gate, split in frame.selectExpr("i", column("gate"), column("split")).collect()}
    return [pairs[i] for i in range(len(draws))]


def _escaped(statement: str) -> str:
    """Escape colons, which SQLAlchemy would read as parameters."""
    return statement.replace(":", r"\:")


def _columns(dialect: warehouse_sql.Dialect, draw: DrawVector, unit: str) -> str:
    if draw.hash_version == "gb2":
        return f"gb2_bucket('{draw.salt}', {unit}), gb2_bucket('{draw.salt}', {unit})"
    return ", ".join(warehouse_sql.bucket_sql(dialect, which, salt=draw.salt, unit=unit) for which in ("gate", "split"))


def by_growthbook(draws: Sequence[DrawVector]) -> list[Pair]:
    """Draw with GrowthBook's SDK, with which `gb2` must agree."""
    from growthbook.core import gbhash

    drawn = [round((gbhash(d.salt, d.unit, 2) or 0.0) * 10_000) for d in draws]
    return [(bucket, bucket) for bucket in drawn]


def by_evaluator(case: Case) -> list[Answer]:
    """Assign with `PreparedExperiment.assign`."""
    prepared = prepare_all(case.published, clock=lambda: case.at)
    answers = []
    for expected in case.assignments:
        assignment = prepared[expected.experiment].assign(expected.unit, expected.attributes)
        # A unit is enrolled exactly when its reason is `assigned`; a wrong flag is reported as a wrong reason.
        is_right = assignment.enrolled == (assignment.reason is Reason.ASSIGNED)
        answers.append((assignment.arm, assignment.reason.value if is_right else f"enrolled {assignment.enrolled}"))
    return answers


def by_bulk(case: Case) -> list[Answer]:
    """Assign with `assign_column`, which returns no arm and no reason for a unit that is not enrolled."""
    from experiments.bulk_assignment import assign_column

    answers: dict[int, Answer] = {}
    for key, experiment in prepare_all(case.published, clock=lambda: case.at).items():
        expected_here = [(i, expected) for i, expected in enumerate(case.assignments) if expected.experiment == key]
        units = [expected.unit for _, expected in expected_here]
        attributes = [expected.attributes for _, expected in expected_here]
        indexes = assign_column(experiment, units, attributes).tolist()
        for (i, expected), index in zip(expected_here, indexes, strict=True):
            if index >= 0:
                answers[i] = experiment.arms[index], Reason.ASSIGNED.value
            else:
                answers[i] = expected.arm, "not enrolled" if expected.reason == Reason.ASSIGNED else expected.reason
    return [answers[i] for i in range(len(case.assignments))]


DRAWS: Final[dict[str, Draw]] = {
    "the words of the specification": by_the_words,
    "scalar": by_kernel,
    "column": by_column,
    "SQLite": by_sqlite,
    "DuckDB": by_duckdb,
}
"""Implementations of draws that are always available."""

ASSIGNMENTS: Final[dict[str, Assign]] = {"evaluator": by_evaluator, "bulk": by_bulk}
"""Implementations of assignment that are always available."""

"""The conformance vectors of docs/reference/assignment-spec.md, and every implementation at hand checked against them.

`assignment_vectors.json` states draws (salt, unit -> gate, split, or why the unit is unfit) and assignments (experiments,
a time, units with attributes -> arm, reason). It was generated once, by other code than this; an implementation that
disagrees with it is wrong, or else has to be another `hash_version`.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from experiments import kernel, warehouse_sql
from experiments.assignment import Reason
from experiments.config import PublishedExperiment
from experiments.errors import ConfigError
from experiments.evaluator import prepare_all

if TYPE_CHECKING:
    from sqlalchemy import Engine

FILE: Final = Path(__file__).parent / "assignment_vectors.json"
_FORMAT: Final = 2

Pair = tuple[int | None, int | None]
Answer = tuple[str | None, str]
Assign = Callable[["Case"], list[Answer]]


class DrawVector(msgspec.Struct, frozen=True):
    """The draws of a salt and a unit; `reason` says why the unit is not enrolled all the same."""

    salt: str
    unit: str
    reason: str | None
    gate: int
    split: int
    hash_version: kernel.HashVersion = "sha256"


class NoDraw(msgspec.Struct, frozen=True):
    """A unit that has no draw at all, since it has no bytes."""

    unit: str | None
    reason: str


class Expected(msgspec.Struct, frozen=True):
    """What one unit gets."""

    experiment: str
    unit: Any
    arm: str | None
    reason: str
    attributes: dict[str, Any] | None = None


class Case(msgspec.Struct, frozen=True):
    """Experiments that are served together, and what units get at a time (microseconds UTC)."""

    name: str
    at: int
    published: tuple[PublishedExperiment, ...]
    assignments: tuple[Expected, ...] = msgspec.field(name="decisions")


class Vectors(msgspec.Struct, frozen=True):
    """The file."""

    format: int
    draws: tuple[DrawVector, ...]
    no_draws: tuple[NoDraw, ...]
    cases: tuple[Case, ...]


class ConformanceResult(msgspec.Struct, frozen=True):
    """One implementation against the file: how many vectors it was asked, and those that it got wrong. `absent` says
    why it was not asked.
    """

    implementation: str
    vectors: str
    checked: int
    wrong: tuple[str, ...] = ()
    absent: str | None = None


def load(path: Path = FILE) -> Vectors:
    """The vectors. Raises ConfigError when the file cannot be read or is of another format."""
    try:
        # Not msgspec's decoder: some units are lone surrogates, escaped in the file, which it refuses.
        vectors = msgspec.convert(json.loads(path.read_text("ascii")), Vectors)
    except (OSError, ValueError, msgspec.ValidationError) as error:
        raise ConfigError(f"{path}: cannot be read as assignment vectors: {error}.") from error
    if vectors.format != _FORMAT:
        raise ConfigError(f"{path} has format {vectors.format}, this program reads {_FORMAT}: use the file beside it.")
    return vectors


def check(vectors: Vectors, postgresql: Engine | None = None, spark: Any = None) -> list[ConformanceResult]:
    """Every implementation against the vectors; PostgreSQL only when an engine is given, Spark when a session is."""
    results = [_check_draws(name, run, vectors) for name, run in DRAWS.items()]
    if postgresql is None:
        results.append(ConformanceResult("PostgreSQL", "draws", 0, absent="no PostgreSQL database was named"))
    else:
        results.append(_check_draws("PostgreSQL", lambda draws: by_postgresql(draws, postgresql), vectors, nul=False))
    if spark is None:
        results.append(ConformanceResult("Spark", "draws of sha256", 0, absent="no Spark session was given"))
    else:
        sha256 = msgspec.structs.replace(vectors, draws=tuple(d for d in vectors.draws if d.hash_version == "sha256"))
        results.append(_check_draws("Spark", lambda draws: by_spark(draws, spark), sha256))
    if find_spec("growthbook") is None:
        results.append(
            ConformanceResult("GrowthBook's SDK", "draws of gb2", 0, absent="the package growthbook is not installed")
        )
    else:
        gb2 = msgspec.structs.replace(vectors, draws=tuple(d for d in vectors.draws if d.hash_version == "gb2"))
        results.append(_check_draws("GrowthBook's SDK", by_growthbook, gb2))
    results += [check_assignments(name, assign, vectors) for name, assign in ASSIGNMENTS.items()]
    return results


def _check_draws(
    name: str, run: Callable[[Sequence[DrawVector]], list[Pair]], vectors: Vectors, *, nul: bool = True
) -> ConformanceResult:
    draws = [d for d in vectors.draws if nul or "\0" not in d.unit]
    wrong = [
        f"{d.hash_version} salt {d.salt!r} unit {ascii(d.unit)[:40]}: {got}, not {(d.gate, d.split)}"
        for d, got in zip(draws, run(draws), strict=True)
        if got != (d.gate, d.split)
    ]
    return ConformanceResult(name, "draws", len(draws), tuple(wrong))


def check_assignments(name: str, assign: Assign, vectors: Vectors) -> ConformanceResult:
    """Any implementation of assignments, such as a service that was given a case's experiments."""
    checked, wrong = 0, []
    for case in vectors.cases:
        for expected, got in zip(case.assignments, assign(case), strict=True):
            checked += 1
            if got != (expected.arm, expected.reason):
                unit = ascii(expected.unit)[:40]
                wrong.append(f"{case.name}, unit {unit}: {got}, not {(expected.arm, expected.reason)}")
    return ConformanceResult(name, "assignments", checked, tuple(wrong))


def by_the_words(draws: Sequence[DrawVector]) -> list[Pair]:
    """K1 to K8 as they are written, by slicing hexadecimal text and going letter by letter."""

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
    """One unit at a time."""
    return [tuple(kernel.buckets(d.salt, d.unit, d.hash_version)) for d in draws]  # type: ignore[misc]


def by_column(draws: Sequence[DrawVector]) -> list[Pair]:
    """Columns of units; -1 stands for the reason of an unfit unit, and the file's own draw for -1 then."""
    found: dict[tuple[str, str], kernel.BucketColumns] = {}
    units = [d.unit for d in draws]
    for key in {(d.salt, d.hash_version) for d in draws}:
        found[key] = kernel.bucket_column(key[0], units, key[1])
    return [
        (d.gate, d.split) if d.reason and column.gate[i] == -1 else (int(column.gate[i]), int(column.split[i]))
        for i, (d, column) in enumerate((d, found[d.salt, d.hash_version]) for d in draws)
    ]


def by_sqlite(draws: Sequence[DrawVector]) -> list[Pair]:
    """Registered functions."""
    with closing(sqlite3.connect(":memory:")) as connection:
        warehouse_sql.register_sqlite(connection)
        queries = {"sha256": "select gate_bucket(?1, ?2), split_bucket(?1, ?2)"}
        queries["gb2"] = "select gb2_bucket(?1, ?2), gb2_bucket(?1, ?2)"
        return [connection.execute(queries[d.hash_version], (d.salt, d.unit)).fetchone() for d in draws]


def by_duckdb(draws: Sequence[DrawVector]) -> list[Pair]:
    """SQL of its own."""
    import duckdb

    with duckdb.connect() as connection:
        connection.execute(warehouse_sql.GB2_FUNCTIONS["duckdb"])
        found: list[Pair] = []
        for d in draws:
            query = f"select {_columns('duckdb', d, 'unit')} from (select $1::varchar as unit)"
            found.append(connection.execute(query, [d.unit]).fetchone() or (None, None))
        return found


def by_postgresql(draws: Sequence[DrawVector], engine: Engine) -> list[Pair]:
    """SQL of its own, in a transaction that is rolled back: the functions of S2 do not stay."""
    from sqlalchemy import text

    with engine.connect() as connection:
        connection.execute(text(_escaped(warehouse_sql.GB2_FUNCTIONS["postgresql"])))
        found: list[Pair] = []
        for d in draws:
            columns = _escaped(_columns("postgresql", d, "UNIT")).replace("UNIT", "cast(:unit as text)")
            row = connection.execute(text(f"select {columns}"), {"unit": d.unit}).one()
            found.append((row[0], row[1]))
        connection.rollback()
    return found


def by_spark(draws: Sequence[DrawVector], session: Any) -> list[Pair]:
    """SQL of its own, of `sha256`, in one query."""

    def column(which: warehouse_sql.Draw) -> str:
        salts = sorted({draw.salt for draw in draws})
        cases = [f"when '{s}' then {warehouse_sql.bucket_sql('spark', which, salt=s, unit='unit')}" for s in salts]
        return f"case salt {' '.join(cases)} end"

    rows = [(i, draw.salt, draw.unit) for i, draw in enumerate(draws)]
    frame = session.createDataFrame(rows, "i int, salt string, unit string")
    found = {i: (gate, split) for i, gate, split in frame.selectExpr("i", column("gate"), column("split")).collect()}
    return [found[i] for i in range(len(draws))]


def _escaped(statement: str) -> str:
    """Colons as they stand: SQLAlchemy takes them for parameters."""
    return statement.replace(":", r"\:")


def _columns(dialect: warehouse_sql.Dialect, draw: DrawVector, unit: str) -> str:
    if draw.hash_version == "gb2":
        return f"gb2_bucket('{draw.salt}', {unit}), gb2_bucket('{draw.salt}', {unit})"
    return ", ".join(warehouse_sql.bucket_sql(dialect, which, salt=draw.salt, unit=unit) for which in ("gate", "split"))


def by_growthbook(draws: Sequence[DrawVector]) -> list[Pair]:
    """The package that `gb2` has to agree with."""
    from growthbook.core import gbhash

    found = [round((gbhash(d.salt, d.unit, 2) or 0.0) * 10_000) for d in draws]
    return [(bucket, bucket) for bucket in found]


def by_evaluator(case: Case) -> list[Answer]:
    """`decide`."""
    prepared = prepare_all(case.published, clock=lambda: case.at)
    answers = []
    for expected in case.assignments:
        assignment = prepared[expected.experiment].assign(expected.unit, expected.attributes)
        # Enrolled exactly when assigned: a wrong flag is shown as a wrong reason.
        is_right = assignment.enrolled == (assignment.reason is Reason.ASSIGNED)
        answers.append((assignment.arm, assignment.reason.value if is_right else f"enrolled {assignment.enrolled}"))
    return answers


def by_bulk(case: Case) -> list[Answer]:
    """`assign_column`, which says who is enrolled in which arm, and of the others only that they are not."""
    from experiments.bulk_assignment import assign_column

    answers: dict[int, Answer] = {}
    for key, experiment in prepare_all(case.published, clock=lambda: case.at).items():
        asked = [(i, expected) for i, expected in enumerate(case.assignments) if expected.experiment == key]
        units, attributes = [expected.unit for _, expected in asked], [expected.attributes for _, expected in asked]
        for (i, expected), index in zip(asked, assign_column(experiment, units, attributes).tolist(), strict=True):
            if index >= 0:
                answers[i] = experiment.arms[index], Reason.ASSIGNED.value
            else:
                answers[i] = expected.arm, "not enrolled" if expected.reason == Reason.ASSIGNED else expected.reason
    return [answers[i] for i in range(len(case.assignments))]


DRAWS: Final[dict[str, Callable[[Sequence[DrawVector]], list[Pair]]]] = {
    "the words of the specification": by_the_words,
    "scalar": by_kernel,
    "column": by_column,
    "SQLite": by_sqlite,
    "DuckDB": by_duckdb,
}
ASSIGNMENTS: Final[dict[str, Assign]] = {"evaluator": by_evaluator, "bulk": by_bulk}


def failures(results: Sequence[ConformanceResult]) -> Iterator[str]:
    """Each vector that an implementation got wrong."""
    for result in results:
        for wrong in result.wrong:
            yield f"{result.implementation}: {wrong}"

"""One vector file, every implementation: the specification's words, scalar, column, SQL, evaluator, bulk."""

import hashlib
import sqlite3
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pytest

from experiments import assignment_vectors, conformance, kernel, warehouse_sql
from experiments.assignment import Reason
from experiments.errors import ConfigError

VECTORS = assignment_vectors.load()
SPEC = (Path(__file__).parents[2] / "docs" / "reference" / "assignment-spec.md").read_text("utf-8")


@pytest.mark.parametrize("implementation", [*conformance.DRAWS, "GrowthBook's SDK"])
def test_every_implementation_gives_the_draws_of_the_vector_file(implementation: str) -> None:
    if implementation == "GrowthBook's SDK":
        pytest.importorskip("growthbook")
        draws = [draw for draw in VECTORS.draws if draw.hash_version == "gb2"]
        found = conformance.by_growthbook(draws)
    else:
        draws = list(VECTORS.draws)
        found = conformance.DRAWS[implementation](draws)
    assert found == [(draw.gate, draw.split) for draw in draws]


@pytest.mark.parametrize("implementation", conformance.ASSIGNMENTS)
@pytest.mark.parametrize("case", VECTORS.cases, ids=lambda case: case.name)
def test_every_implementation_decides_as_the_vector_file_says(
    implementation: str, case: assignment_vectors.Case
) -> None:
    found = conformance.ASSIGNMENTS[implementation](case)
    assert found == [(expected.arm, expected.reason) for expected in case.assignments]


def test_spark_gives_the_draws_of_the_vector_file(spark: Any) -> None:
    draws = [draw for draw in VECTORS.draws if draw.hash_version == "sha256"]
    assert conformance.by_spark(draws, spark) == [(draw.gate, draw.split) for draw in draws]


def test_the_reason_why_a_unit_cannot_be_enrolled_is_that_of_the_vector_file() -> None:
    for unit, reason in [(d.unit, d.reason) for d in VECTORS.draws] + [(n.unit, n.reason) for n in VECTORS.no_draws]:
        found = kernel.unit_bytes(unit)
        assert (found.value if isinstance(found, Reason) else None) == reason, ascii(unit)[:40]


def test_a_column_gives_minus_one_for_whom_cannot_be_enrolled() -> None:
    for salt in {draw.salt for draw in VECTORS.draws}:
        units = [d.unit for d in VECTORS.draws if d.salt == salt and d.reason] + [n.unit for n in VECTORS.no_draws]
        for hash_version in ("sha256", "gb2"):
            column = kernel.bucket_column(salt, units, hash_version)  # type: ignore[arg-type]
            assert column.gate.tolist() == column.split.tolist() == [-1] * len(units)


def test_the_vectors_cover_every_reason_that_an_experiment_can_give() -> None:
    given = {expected.reason for case in VECTORS.cases for expected in case.assignments}
    assert given == {reason.value for reason in Reason} - {"unknown_experiment"}


def test_a_wrong_implementation_is_named_with_the_vectors_that_it_gets_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check that `sagelift vectors --check` prints can fail."""
    monkeypatch.setitem(conformance.DRAWS, "off by one", lambda draws: [(d.gate + 1, d.split) for d in draws])
    monkeypatch.setitem(
        conformance.ASSIGNMENTS, "always control", lambda case: [("control", "assigned") for _ in case.assignments]
    )
    outcomes = {outcome.implementation: outcome for outcome in conformance.check(VECTORS)}
    assert len(outcomes["off by one"].wrong) == outcomes["off by one"].checked == len(VECTORS.draws)
    assert outcomes["always control"].wrong
    assert {line.split(":")[0] for line in conformance.failures(list(outcomes.values()))} == {
        "off by one",
        "always control",
    }
    assert outcomes["PostgreSQL"].absent
    assert outcomes["Spark"].absent


def test_a_file_that_is_no_vector_file_is_a_config_error(tmp_path: Path) -> None:
    path = tmp_path / "conformance.json"
    for text, message in (
        ("[]", "Expected `object`"),
        ("{", "cannot be read"),
        ('{"format": 9, "draws": [], "no_draws": [], "cases": []}', "format 9"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            assignment_vectors.load(path)


def test_sql_of_a_missing_unit_is_null() -> None:
    """A NULL unit has no bucket in SQL either (U1)."""
    expression = warehouse_sql.bucket_sql("duckdb", "gate", salt="s", unit="null::varchar")
    with duckdb.connect() as connection:
        connection.execute(warehouse_sql.GB2_FUNCTIONS["duckdb"])
        assert connection.execute(f"select {expression}, gb2_bucket('s', null)").fetchone() == (None, None)
    plain = sqlite3.connect(":memory:")
    warehouse_sql.register_sqlite(plain)
    assert plain.execute("select gate_bucket('s', null), gb2_bucket('s', null)").fetchone() == (None, None)
    plain.close()


def test_a_quote_in_a_salt_stays_inside_the_literal() -> None:
    assert "'it''s'" in warehouse_sql.bucket_sql("duckdb", "gate", salt="it's", unit="u")


def test_the_documented_sql_is_the_sql_that_runs() -> None:
    """docs/reference/assignment-spec.md shows, character for character, what `bucket_sql` writes."""
    for dialect in warehouse_sql._SHA256:
        for draw in ("gate", "split"):
            expression = warehouse_sql.bucket_sql(dialect, draw, salt="SALT", unit="unit_id")  # type: ignore[arg-type]
            assert expression in SPEC, expression
    for text in warehouse_sql.GB2_FUNCTIONS.values():
        assert text in SPEC


def test_the_file_is_what_the_specification_was_published_with() -> None:
    """Vectors may be added; one that is there never changes. The first 87 draws are those of the first edition."""
    first = msgspec.json.encode([(d.salt, d.unit, d.gate, d.split) for d in VECTORS.draws[:87]])
    assert len(VECTORS.draws) >= 121
    assert all(draw.hash_version == "sha256" for draw in VECTORS.draws[:87])
    assert hashlib.sha256(first).hexdigest()[:16] == "17510c641ada4f50"

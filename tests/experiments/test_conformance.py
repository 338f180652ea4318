"""Every implementation (scalar, column, SQL, evaluator, bulk) agrees with one vector file."""

from typing import Any

import pytest

from experiments import assignment_vectors, conformance, kernel
from experiments.assignment import Reason

VECTORS = assignment_vectors.load()


@pytest.mark.parametrize("implementation", [*conformance.DRAWS, "GrowthBook's SDK"])
def test_every_implementation_gives_the_draws_of_the_vector_file(implementation: str) -> None:
    if implementation == "GrowthBook's SDK":
        pytest.importorskip("growthbook")
        draws = [draw for draw in VECTORS.draws if draw.hash_version == "gb2"]
        result = conformance.by_growthbook(draws)
    else:
        draws = list(VECTORS.draws)
        result = conformance.DRAWS[implementation](draws)
    assert result == [(draw.gate, draw.split) for draw in draws]


@pytest.mark.parametrize("implementation", conformance.ASSIGNMENTS)
@pytest.mark.parametrize("case", VECTORS.cases, ids=lambda case: case.name)
def test_every_implementation_gives_the_assignments_of_the_vector_file(
    implementation: str, case: assignment_vectors.Case
) -> None:
    result = conformance.ASSIGNMENTS[implementation](case)
    assert result == [(expected.arm, expected.reason) for expected in case.assignments]


def test_spark_gives_the_draws_of_the_vector_file(spark: Any) -> None:
    draws = [draw for draw in VECTORS.draws if draw.hash_version == "sha256"]
    assert conformance.by_spark(draws, spark) == [(draw.gate, draw.split) for draw in draws]


def test_the_reason_why_a_unit_cannot_be_enrolled_is_that_of_the_vector_file() -> None:
    for unit, reason in [(d.unit, d.reason) for d in VECTORS.draws] + [(n.unit, n.reason) for n in VECTORS.no_draws]:
        result = kernel.unit_bytes(unit)
        assert (result.value if isinstance(result, Reason) else None) == reason, ascii(unit)[:40]


def test_a_column_has_minus_one_for_units_that_cannot_be_enrolled() -> None:
    for salt in {draw.salt for draw in VECTORS.draws}:
        units = [d.unit for d in VECTORS.draws if d.salt == salt and d.reason] + [n.unit for n in VECTORS.no_draws]
        for hash_version in ("sha256", "gb2"):
            column = kernel.bucket_column(salt, units, hash_version)  # type: ignore[arg-type]
            assert column.gate.tolist() == column.split.tolist() == [-1] * len(units)


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

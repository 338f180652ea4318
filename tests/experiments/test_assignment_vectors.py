"""One vector file, every implementation: the specification's words, scalar, column, SQLite, DuckDB, evaluator."""

import hashlib
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import numpy as np
import pytest

from experiments import kernel
from experiments.config import ExperimentConfig, PublishedExperiment
from experiments.decision import Reason
from experiments.evaluator import prepare

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "assignment_vectors.json").read_text("ascii"))
DRAWS: list[dict[str, Any]] = [draw for draw in VECTORS["draws"] if draw["gate"] is not None]
Pair = tuple[int | None, int | None]


def by_the_words_of_the_spec(salt: str, unit: str) -> Pair:
    """K1 to K5 by slicing the hexadecimal text, as an analyst would."""
    digits = hashlib.sha256(salt.encode() + b"\x1f" + unit.encode()).hexdigest()
    return int(digits[:15], 16) % 10_000, int(digits[15:30], 16) % 10_000


def by_duckdb(salt: str, unit: str) -> Pair:
    draws = ", ".join(kernel.bucket_sql("duckdb", draw, salt=salt, unit="unit") for draw in ("gate", "split"))
    row = duckdb.execute(f"select {draws} from (select $1::varchar as unit)", [unit]).fetchone()
    assert row is not None
    return row[0], row[1]


def by_sqlite(salt: str, unit: str) -> Pair:
    connection = sqlite3.connect(":memory:")
    try:
        kernel.register_sqlite(connection)
        row = connection.execute("select gate_bucket(?1, ?2), split_bucket(?1, ?2)", (salt, unit)).fetchone()
    finally:
        connection.close()
    return row[0], row[1]


@pytest.mark.parametrize("implementation", [by_the_words_of_the_spec, kernel.buckets, by_sqlite, by_duckdb])
def test_every_implementation_gives_the_draws_of_the_vector_file(implementation: Callable[[str, str], Pair]) -> None:
    got = [implementation(draw["salt"], draw["unit"]) for draw in DRAWS]
    assert got == [(draw["gate"], draw["split"]) for draw in DRAWS]


@pytest.mark.parametrize("container", [list, lambda units: np.array(units, dtype=object)])
def test_a_column_gives_the_draws_of_the_vector_file_and_minus_one_for_whom_cannot_be_enrolled(
    container: Callable[[list[Any]], Any],
) -> None:
    for salt in {draw["salt"] for draw in VECTORS["draws"]}:
        draws = [draw for draw in VECTORS["draws"] if draw["salt"] == salt]
        column = kernel.bucket_column(salt, container([draw["unit"] for draw in draws]))
        assert column.gate.tolist() == [-1 if draw["reason"] else draw["gate"] for draw in draws]
        assert column.split.tolist() == [-1 if draw["reason"] else draw["split"] for draw in draws]


def test_the_reason_why_a_unit_cannot_be_enrolled_is_that_of_the_vector_file() -> None:
    for draw in VECTORS["draws"]:
        found = kernel.unit_bytes(draw["unit"])
        assert (found.value if isinstance(found, Reason) else None) == draw["reason"], ascii(draw["unit"])[:40]


def test_the_vectors_cover_every_edge_that_the_specification_names() -> None:
    assert {draw["reason"] for draw in VECTORS["draws"]} == {
        None, "unit_missing", "unit_not_unicode", "unit_has_nul", "unit_too_long",
    }  # fmt: skip
    assert {decision["reason"] for case in VECTORS["experiments"] for decision in case["decisions"]} >= {
        "assigned", "outside_coverage", "outside_layer_range",
    }  # fmt: skip


@pytest.mark.parametrize("case", VECTORS["experiments"], ids=lambda case: case["config"]["key"])
def test_the_evaluator_decides_as_the_vector_file_says(case: dict[str, Any]) -> None:
    prepared = prepare(PublishedExperiment(msgspec.convert(case["config"], ExperimentConfig), version=1))
    for expected in case["decisions"]:
        decision = prepared.decide(expected["unit"])
        assert (decision.arm, decision.reason) == (expected["arm"], expected["reason"]), ascii(expected["unit"])
        assert decision.enrolled == (expected["reason"] == "assigned")


def test_sql_of_a_missing_unit_is_null() -> None:
    """A NULL unit has no bucket in SQL either (U1)."""
    expression = kernel.bucket_sql("duckdb", "gate", salt="s", unit="null::varchar")
    assert duckdb.execute(f"select {expression}").fetchone() == (None,)
    connection = sqlite3.connect(":memory:")
    kernel.register_sqlite(connection)
    assert connection.execute("select gate_bucket('s', null)").fetchone() == (None,)
    connection.close()


def test_the_documented_sql_is_the_sql_that_runs() -> None:
    """docs/assignment-spec.md shows, character for character, what `bucket_sql` writes."""
    text = (Path(__file__).parents[2] / "docs" / "assignment-spec.md").read_text("utf-8")
    for dialect in ("duckdb", "postgresql"):
        for draw in ("gate", "split"):
            assert kernel.bucket_sql(dialect, draw, salt="SALT", unit="unit_id") in text  # type: ignore[arg-type]

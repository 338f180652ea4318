"""A column of any type gives the same assignments as its units one by one."""

from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.bulk_assignment import assign_column
from experiments.config import (
    Arm,
    ExperimentConfig,
    ExperimentState,
    Holdout,
    LayerRange,
    Override,
    Prerequisite,
    PublishedExperiment,
)
from experiments.evaluator import PreparedExperiment, prepare, prepare_all

UNITS = [f"user-{i}" for i in range(3_000)]
ODD = [None, "", "\0", "a\0b", "é" * 512, "é" * 513, "x" * 1_024, "x" * 1_025, "日本", "😀"]
NO_TEXT = [7, 1.5, True, b"u", "\ud800", np.str_("user-1")]


def expected(experiment: PreparedExperiment, units: list[Any], attributes: list[Any] | None = None) -> list[int]:
    assignments = [experiment.assign(u, None if attributes is None else attributes[i]) for i, u in enumerate(units)]
    return [experiment.arms.index(d.arm) if d.enrolled and d.arm else -1 for d in assignments]


@pytest.fixture
def everything(config: ExperimentConfig) -> PreparedExperiment:
    """An experiment to which every rule applies."""
    first = msgspec.structs.replace(config, key="first", salt="first-1", coverage=8_000)
    second = msgspec.structs.replace(
        config,
        coverage=6_000,
        arms=(Arm("control", 3_334), Arm("b", 3_333), Arm("c", 3_333)),
        holdouts=(Holdout("quarter", 1_000),),
        layer=LayerRange("home", 1_000, 9_000),
        prerequisites=(Prerequisite("first", ("treatment",)),),
        targeting="age >= 18",
    )
    forced = (Override("user-3", "b", 10), Override("user-4", "b", 1))
    both = [PublishedExperiment(first, 1), PublishedExperiment(second, 1, "running", forced)]
    return prepare_all(both, clock=lambda: 5)["ranking"]


@pytest.mark.parametrize("state", ["running", "paused", "stopped"])
@pytest.mark.parametrize("hash_version", ["sha256", "gb2"])
def test_a_column_is_enrolled_as_each_unit_alone(
    config: ExperimentConfig, state: ExperimentState, hash_version: Any
) -> None:
    config = msgspec.structs.replace(
        config, coverage=6_000, layer=LayerRange("home", 1_000, 9_000), hash_version=hash_version
    )
    experiment = prepare(PublishedExperiment(config, 1, state))
    for units in (UNITS + ODD, UNITS + ODD + NO_TEXT, []):
        assert assign_column(experiment, units).tolist() == expected(experiment, units)


def test_every_rule_holds_in_a_column(everything: PreparedExperiment) -> None:
    units = UNITS + ODD
    attributes = [{"age": i % 40} if i % 7 else None for i in range(len(units))]
    result = assign_column(everything, units, attributes).tolist()
    assert result == expected(everything, units, attributes)
    assert set(result) == {-1, 0, 1, 2}
    assert assign_column(everything, UNITS).tolist() == [-1] * len(UNITS), "without attributes nobody is targeted"


@pytest.mark.parametrize(
    "column",
    [
        lambda units: pa.array(units, pa.string()),
        lambda units: pa.array(units, pa.large_string()),
        lambda units: pa.chunked_array([pa.array(units[:100]), pa.array(units[100:])]),
        lambda units: pa.array(units).dictionary_encode(),
        lambda units: np.array(units, dtype=object),
        tuple,
    ],
    ids=["string", "large_string", "chunked", "dictionary", "object array", "tuple"],
)
def test_every_kind_of_column_is_taken(config: ExperimentConfig, column: Any) -> None:
    units = UNITS[:200] + ODD
    experiment = prepare(PublishedExperiment(msgspec.structs.replace(config, coverage=6_000), 1))
    assert assign_column(experiment, column(units)).tolist() == expected(experiment, units)


def test_chunks_are_put_together_in_order(config: ExperimentConfig) -> None:
    experiment = prepare(PublishedExperiment(msgspec.structs.replace(config, targeting="n >= 0"), 1))
    units = [*UNITS, 7, *UNITS]  # one chunk goes the other way
    attributes = [{"n": i % 3 - 1} for i in range(len(units))]
    assert assign_column(experiment, units, attributes, chunk=700).tolist() == expected(experiment, units, attributes)


def test_the_order_is_kept_on_several_threads(config: ExperimentConfig) -> None:
    """More rows than DuckDB gives one thread."""
    units = pa.array([str(i) for i in range(400_000)])
    experiment = prepare(PublishedExperiment(msgspec.structs.replace(config, coverage=6_000), 1))
    one, four = (assign_column(experiment, units, threads=threads) for threads in (1, 4))
    assert np.array_equal(one, four)
    for i in range(0, 400_000, 4_001):
        assert [one[i]] == expected(experiment, [str(i)])


@settings(max_examples=25, deadline=None)  # the first one loads DuckDB
@given(st.lists(st.none() | st.integers() | st.text(max_size=5), max_size=40))
def test_any_ids_are_assigned_as_each_alone(units: list[Any]) -> None:
    arms = (Arm("a", 2_500), Arm("b", 7_500))
    config = ExperimentConfig(key="e", salt="s", coverage=7_000, arms=arms, control="a", holdouts=(Holdout("q", 500),))
    experiment = prepare(PublishedExperiment(config, 1))
    assert assign_column(experiment, units).tolist() == expected(experiment, units)

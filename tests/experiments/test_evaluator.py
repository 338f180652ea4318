"""The evaluator: buckets to arms, ramps, layers, states, and never an exception."""

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.config import Arm, ExperimentConfig, LayerRange, PublishedExperiment, State
from experiments.decision import Reason
from experiments.errors import ConfigError
from experiments.evaluator import PreparedExperiment, prepare

UNITS = [f"user-{i}" for i in range(20_000)]


def prepared(config: ExperimentConfig, state: State = "running", **changes: Any) -> PreparedExperiment:
    return prepare(PublishedExperiment(msgspec.structs.replace(config, **changes), 3, state))


class StatedHash:
    """A digest whose gate and split draws are stated: 15 hex digits each, then padding."""

    def __init__(self, gate: int, split: int) -> None:
        self._digest = bytes.fromhex(f"{gate:015x}{split:015x}".ljust(64, "0"))

    def __call__(self, data: bytes) -> "StatedHash":
        return self

    def digest(self) -> bytes:
        return self._digest


@pytest.mark.parametrize(
    ("gate", "split", "arm", "reason"),
    [
        (0, 0, "control", Reason.ASSIGNED),
        (1_999, 4_999, "control", Reason.ASSIGNED),
        (1_999, 5_000, "treatment", Reason.ASSIGNED),
        (0, 9_999, "treatment", Reason.ASSIGNED),
        (2_000, 9_999, "control", Reason.OUTSIDE_COVERAGE),
        (9_999, 0, "control", Reason.OUTSIDE_COVERAGE),
        (12_000, 19_999, "control", Reason.OUTSIDE_COVERAGE),  # modulo 10,000
    ],
)
def test_the_edges_of_gate_and_split(config: ExperimentConfig, gate: int, split: int, arm: str, reason: Reason) -> None:
    published = PublishedExperiment(msgspec.structs.replace(config, coverage=2_000), 3)
    decision = prepare(published, StatedHash(gate, split)).decide("u")
    assert (decision.arm, decision.reason, decision.enrolled) == (arm, reason, reason is Reason.ASSIGNED)
    assert decision.gate_bucket == gate % 10_000
    assert decision.split_bucket == (split if decision.enrolled else None)
    assert (decision.experiment, decision.unit, decision.config_version) == ("ranking", "u", 3)


@pytest.mark.parametrize(("bucket", "inside"), [(2_499, False), (2_500, True), (7_499, True), (7_500, False)])
def test_the_edges_of_a_layer_range(config: ExperimentConfig, bucket: int, inside: bool) -> None:
    config = msgspec.structs.replace(config, layer=LayerRange("home", 2_500, 7_500))
    decision = prepare(PublishedExperiment(config, 1), StatedHash(bucket, 9_999)).decide("u")
    assert decision.reason is (Reason.ASSIGNED if inside else Reason.OUTSIDE_LAYER_RANGE)


def test_coverage_zero_enrols_no_one_and_full_coverage_everyone(config: ExperimentConfig) -> None:
    assert not any(prepared(config, coverage=0).decide(unit).enrolled for unit in UNITS[:2_000])
    assert all(prepared(config).decide(unit).enrolled for unit in UNITS[:2_000])


def test_a_ramp_moves_no_one(config: ExperimentConfig) -> None:
    """1 -> 5 -> 20 -> 100 %: each step keeps everyone who was enrolled, in the same arm, and adds people (G2)."""
    before: dict[str, str | None] = {}
    for coverage in (100, 500, 2_000, 10_000):
        decisions = [prepared(config, coverage=coverage).decide(unit) for unit in UNITS]
        now = {unit: decision.arm for unit, decision in zip(UNITS, decisions, strict=True) if decision.enrolled}
        assert before.items() <= now.items()
        assert len(now) > len(before)
        before = now
    assert len(before) == len(UNITS)


def test_a_new_split_moves_exactly_the_minimum(config: ExperimentConfig) -> None:
    """50/50 -> 60/40: only units whose split draw lies in [5000, 6000) move, all of them to the first arm (A3)."""
    even = prepared(config)
    uneven = prepared(config, arms=(Arm("control", 6_000), Arm("treatment", 4_000)))
    moved = 0
    for unit in UNITS:
        a, b = even.decide(unit), uneven.decide(unit)
        assert a.split_bucket is not None
        should_move = 5_000 <= a.split_bucket < 6_000
        assert (a.arm != b.arm) == should_move
        assert not should_move or b.arm == "control"
        moved += should_move
    assert moved == pytest.approx(len(UNITS) / 10, rel=0.15)


@given(st.integers(0, 10_000), st.integers(0, 10_000), st.integers(1, 9_999), st.text(min_size=1))
def test_enrolment_nests_and_never_depends_on_the_weights(low: int, high: int, weight: int, unit: str) -> None:
    arms = (Arm("a", weight), Arm("b", 10_000 - weight))
    config = ExperimentConfig(key="e", salt="s", coverage=min(low, high), arms=arms, control="a")
    narrow, wide = prepared(config).decide(unit), prepared(config, coverage=max(low, high)).decide(unit)
    assert not narrow.enrolled or (wide.enrolled and wide.arm == narrow.arm)
    swapped = prepared(config, arms=(Arm("a", 5_000), Arm("b", 5_000))).decide(unit)
    assert swapped.enrolled == narrow.enrolled


def test_experiments_of_one_layer_share_no_unit_and_two_layers_cross(config: ExperimentConfig) -> None:
    first = prepared(config, layer=LayerRange("home", 0, 5_000))
    second = prepared(config, key="other", salt="other-1", layer=LayerRange("home", 5_000, 10_000))
    elsewhere = prepared(config, key="third", salt="third-1", layer=LayerRange("search", 0, 5_000))
    enrolled = [np.array([p.decide(unit).enrolled for unit in UNITS]) for p in (first, second, elsewhere)]
    assert not np.any(enrolled[0] & enrolled[1])
    assert np.all(enrolled[0] | enrolled[1])
    assert np.mean(enrolled[0] & enrolled[2]) == pytest.approx(0.25, abs=0.02)


class NoText(str):
    """A subclass whose own text differs from what is hashed."""

    def __str__(self) -> str:
        raise RuntimeError("never asked")


ODD_UNITS = [
    None,
    "",
    0,
    7,
    1.5,
    True,
    b"u",
    [],
    {},
    object(),
    np.int64(1),
    np.array(["a", "b"]),
    "\ud800",
    "\0",
    "x" * 2_000,
]


@pytest.mark.parametrize("unit", ODD_UNITS, ids=lambda unit: ascii(unit)[:20])
def test_an_odd_unit_gets_control_and_a_reason_and_no_exception(config: ExperimentConfig, unit: object) -> None:
    decision = prepared(config).decide(unit)
    assert (decision.arm, decision.enrolled) == ("control", False)
    assert decision.reason.startswith("unit_")
    assert decision.gate_bucket is None
    assert prepared(config).explain(unit)[0] == decision


def test_a_subclass_of_text_is_logged_as_what_was_hashed(config: ExperimentConfig) -> None:
    for unit in (np.str_("user-1"), NoText("user-1")):
        decision = prepared(config).decide(unit)
        assert decision == prepared(config).decide("user-1")
        assert type(decision.unit) is str


def test_paused_keeps_serving_the_same_arm_and_enrols_no_one(config: ExperimentConfig) -> None:
    for unit in UNITS[:200]:
        running, paused = prepared(config).decide(unit), prepared(config, "paused").decide(unit)
        assert (paused.arm, paused.enrolled, paused.reason) == (running.arm, False, Reason.PAUSED)


def test_stopped_serves_control_to_everyone(config: ExperimentConfig) -> None:
    decisions = [prepared(config, "stopped").decide(unit) for unit in [*UNITS[:200], None]]
    assert {(d.arm, d.enrolled, d.reason) for d in decisions} == {("control", False, Reason.STOPPED)}


@pytest.mark.parametrize("state", ["draft", "decided"])
def test_a_draft_or_decided_experiment_cannot_be_served(config: ExperimentConfig, state: State) -> None:
    with pytest.raises(ConfigError, match=f"is {state}"):
        prepared(config, state)


@pytest.mark.parametrize("state", ["running", "paused", "stopped"])
def test_a_column_is_enrolled_as_each_unit_alone(config: ExperimentConfig, state: State) -> None:
    units = [*UNITS[:3_000], *ODD_UNITS]
    experiment = prepared(config, state, coverage=6_000, layer=LayerRange("home", 1_000, 9_000))
    decisions = [experiment.decide(unit) for unit in units]
    arms = [arm.key for arm in config.arms]
    expected = [arms.index(d.arm) if d.enrolled and d.arm else -1 for d in decisions]
    assert experiment.decide_column(units).tolist() == expected


@pytest.mark.parametrize("state", ["running", "paused", "stopped"])
def test_an_explanation_ends_at_the_rule_that_decided(config: ExperimentConfig, state: State) -> None:
    experiment = prepared(config, state, coverage=5_000, layer=LayerRange("home", 0, 5_000))
    last_step = {
        Reason.ASSIGNED: ("split", True),
        Reason.PAUSED: ("split", True),
        Reason.OUTSIDE_COVERAGE: ("gate", False),
        Reason.OUTSIDE_LAYER_RANGE: ("layer", False),
        Reason.UNIT_MISSING: ("unit", False),
        Reason.STOPPED: ("state", False),
    }
    seen = set()
    for unit in [*UNITS[:60], ""]:
        decision, steps = experiment.explain(unit)
        assert decision == experiment.decide(unit)
        assert (steps[-1].name, steps[-1].passed) == last_step[decision.reason]
        assert all(step.passed for step in steps[:-1])
        seen.add(decision.reason)
    assert len(seen) == (1 if state == "stopped" else 4)


def test_an_explanation_says_the_numbers(config: ExperimentConfig) -> None:
    published = PublishedExperiment(msgspec.structs.replace(config, coverage=2_000), 3)
    steps = prepare(published, StatedHash(1_234, 7_777)).explain("u")[1]
    assert steps[-2].found == "bucket 1234, enrolled below 2000"
    assert steps[-1].found == "bucket 7777, treatment owns [5000, 10000)"

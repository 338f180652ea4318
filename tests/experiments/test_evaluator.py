"""The evaluator maps buckets to arms, handles ramps, layers and states, and never raises."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.assignment import Reason
from experiments.config import (
    Arm,
    ExperimentConfig,
    ExperimentState,
    Holdout,
    LayerRange,
    Override,
    Prerequisite,
    PublishedExperiment,
    RampStep,
)
from experiments.errors import ConfigError
from experiments.evaluator import PreparedExperiment, assign_all, prepare, prepare_all

UNITS = [f"user-{i}" for i in range(20_000)]


def prepared(config: ExperimentConfig, state: ExperimentState = "running", **changes: Any) -> PreparedExperiment:
    return prepare(PublishedExperiment(msgspec.structs.replace(config, **changes), 3, state))


class StatedHash:
    """A digest whose gate and split draws are stated: 15 hex digits each, then padding."""

    def __init__(self, gate: int, split: int) -> None:
        self._digest = bytes.fromhex(f"{gate:015x}{split:015x}".ljust(64, "0"))

    def __call__(self, data: bytes) -> "StatedHash":
        return self

    def copy(self) -> "StatedHash":
        return self

    def update(self, data: bytes) -> None:
        pass

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
    assignment = prepare(published, StatedHash(gate, split)).assign("u")
    assert (assignment.arm, assignment.reason, assignment.enrolled) == (arm, reason, reason is Reason.ASSIGNED)
    assert assignment.gate_bucket == gate % 10_000
    assert assignment.split_bucket == (split if assignment.enrolled else None)
    assert (assignment.experiment, assignment.unit, assignment.config_version) == ("ranking", "u", 3)


@pytest.mark.parametrize(("bucket", "inside"), [(2_499, False), (2_500, True), (7_499, True), (7_500, False)])
def test_the_edges_of_a_layer_range(config: ExperimentConfig, bucket: int, inside: bool) -> None:
    config = msgspec.structs.replace(config, layer=LayerRange("home", 2_500, 7_500))
    assignment = prepare(PublishedExperiment(config, 1), StatedHash(bucket, 9_999)).assign("u")
    assert assignment.reason is (Reason.ASSIGNED if inside else Reason.OUTSIDE_LAYER_RANGE)


def test_coverage_zero_enrols_no_one_and_full_coverage_everyone(config: ExperimentConfig) -> None:
    assert not any(prepared(config, coverage=0).assign(unit).enrolled for unit in UNITS[:2_000])
    assert all(prepared(config).assign(unit).enrolled for unit in UNITS[:2_000])


def test_a_ramp_moves_no_one(config: ExperimentConfig) -> None:
    """1 -> 5 -> 20 -> 100 %: each step keeps everyone who was enrolled, in the same arm, and adds people (G2)."""
    before: dict[str, str | None] = {}
    for coverage in (100, 500, 2_000, 10_000):
        assignments = [prepared(config, coverage=coverage).assign(unit) for unit in UNITS]
        now = {unit: assignment.arm for unit, assignment in zip(UNITS, assignments, strict=True) if assignment.enrolled}
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
        a, b = even.assign(unit), uneven.assign(unit)
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
    narrow, wide = prepared(config).assign(unit), prepared(config, coverage=max(low, high)).assign(unit)
    assert not narrow.enrolled or (wide.enrolled and wide.arm == narrow.arm)
    swapped = prepared(config, arms=(Arm("a", 5_000), Arm("b", 5_000))).assign(unit)
    assert swapped.enrolled == narrow.enrolled


def test_experiments_of_one_layer_share_no_unit_and_layers_are_independent(config: ExperimentConfig) -> None:
    first = prepared(config, layer=LayerRange("home", 0, 5_000))
    second = prepared(config, key="other", salt="other-1", layer=LayerRange("home", 5_000, 10_000))
    elsewhere = prepared(config, key="third", salt="third-1", layer=LayerRange("search", 0, 5_000))
    enrolled = [np.array([p.assign(unit).enrolled for unit in UNITS]) for p in (first, second, elsewhere)]
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
    assignment = prepared(config).assign(unit)
    assert (assignment.arm, assignment.enrolled) == ("control", False)
    assert assignment.reason.startswith("unit_")
    assert assignment.gate_bucket is None
    assert prepared(config).explain(unit)[0] == assignment


def test_a_subclass_of_text_is_logged_as_the_text_that_was_hashed(config: ExperimentConfig) -> None:
    for unit in (np.str_("user-1"), NoText("user-1")):
        assignment = prepared(config).assign(unit)
        assert assignment == prepared(config).assign("user-1")
        assert type(assignment.unit) is str


def test_paused_keeps_serving_the_same_arm_and_enrols_no_one(config: ExperimentConfig) -> None:
    for unit in UNITS[:200]:
        running, paused = prepared(config).assign(unit), prepared(config, "paused").assign(unit)
        assert (paused.arm, paused.enrolled, paused.reason) == (running.arm, False, Reason.PAUSED)


def test_stopped_serves_control_to_everyone(config: ExperimentConfig) -> None:
    assignments = [prepared(config, "stopped").assign(unit) for unit in [*UNITS[:200], None]]
    assert {(d.arm, d.enrolled, d.reason) for d in assignments} == {("control", False, Reason.STOPPED)}


@pytest.mark.parametrize("state", ["draft", "decided"])
def test_a_draft_or_decided_experiment_cannot_be_served(config: ExperimentConfig, state: ExperimentState) -> None:
    with pytest.raises(ConfigError, match=f"is {state}"):
        prepared(config, state)


@pytest.mark.parametrize("state", ["running", "paused", "stopped"])
def test_an_explanation_ends_at_the_rule_that_decided(config: ExperimentConfig, state: ExperimentState) -> None:
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
        assignment, steps = experiment.explain(unit)
        assert assignment == experiment.assign(unit)
        assert (steps[-1].name, steps[-1].passed) == last_step[assignment.reason]
        assert all(step.passed for step in steps[:-1])
        seen.add(assignment.reason)
    assert len(seen) == (1 if state == "stopped" else 4)


def test_an_explanation_says_the_numbers(config: ExperimentConfig) -> None:
    published = PublishedExperiment(msgspec.structs.replace(config, coverage=2_000), 3)
    steps = prepare(published, StatedHash(1_234, 7_777)).explain("u")[1]
    assert steps[-2].found == "bucket 1234, enrolled below 2000"
    assert steps[-1].found == "bucket 7777, treatment owns [5000, 10000)"


NOW = datetime(2026, 12, 1, 9, tzinfo=UTC)
NOW_US = int(NOW.timestamp()) * 1_000_000


def at(time: int) -> Any:
    return lambda: time


def test_an_override_forces_an_arm_until_it_expires_and_is_never_enrolled(config: ExperimentConfig) -> None:
    forced = (Override("tester", "treatment", NOW_US),)
    published = PublishedExperiment(msgspec.structs.replace(config, coverage=0), 3, "running", forced)
    before = prepare(published, clock=at(NOW_US - 1)).assign("tester")
    assert (before.arm, before.enrolled, before.reason) == ("treatment", False, Reason.OVERRIDE)
    after = prepare(published, clock=at(NOW_US)).assign("tester")
    assert (after.arm, after.reason) == ("control", Reason.OUTSIDE_COVERAGE)
    assert prepare(published, clock=at(NOW_US)).explain("tester")[1][2].found == "expired"
    assert prepare(published, clock=at(0)).assign("other").reason is Reason.OUTSIDE_COVERAGE


@given(st.integers(1, 9_999), st.text(min_size=1, max_size=20))
def test_a_holdout_holds_the_same_units_out_of_every_experiment_that_names_it(size: int, unit: str) -> None:
    arms = (Arm("a", 5_000), Arm("b", 5_000))
    assignments = [
        prepared(
            ExperimentConfig(
                key=key,
                salt=key,
                coverage=10_000,
                arms=arms,
                control="a",
                holdouts=(Holdout("quarter", size, "global"),),
            )
        ).assign(unit)
        for key in ("one", "two")
    ]
    assert (assignments[0].reason is Reason.IN_HOLDOUT) == (assignments[1].reason is Reason.IN_HOLDOUT)
    assert all(d.enrolled != (d.reason is Reason.IN_HOLDOUT) or d.reason.startswith("unit_") for d in assignments)


def test_a_holdout_has_its_size_and_is_independent_of_layers_and_experiments(config: ExperimentConfig) -> None:
    held = prepared(config, holdouts=(Holdout("quarter", 2_000),), layer=LayerRange("home", 0, 5_000))
    reasons = [held.assign(unit).reason for unit in UNITS]
    assert reasons.count(Reason.IN_HOLDOUT) == pytest.approx(len(UNITS) * 0.2, rel=0.08)
    assert reasons.count(Reason.OUTSIDE_LAYER_RANGE) == pytest.approx(len(UNITS) * 0.8 * 0.5, rel=0.05)


def test_a_prerequisite_admits_the_units_of_its_arm(config: ExperimentConfig) -> None:
    first = msgspec.structs.replace(config, key="first", salt="first-1", coverage=6_000)
    second = msgspec.structs.replace(config, prerequisites=(Prerequisite("first", ("treatment",)),))
    for state, lets_in in (("running", True), ("paused", True), ("stopped", False)):
        both = prepare_all([PublishedExperiment(second, 1), PublishedExperiment(first, 1, state)])  # type: ignore[arg-type]
        for unit in UNITS[:300]:
            before = both["first"].assign(unit)
            in_arm = before.arm == "treatment" and before.reason in (Reason.ASSIGNED, Reason.PAUSED)
            assert both["ranking"].assign(unit).enrolled == (in_arm and lets_in)
    alone = prepare_all([PublishedExperiment(second, 1)])["ranking"]
    assert alone.assign("u").reason is Reason.PREREQUISITE_NOT_MET
    assert alone.explain("u")[1][-1].found == "first: not served, needs treatment"


def test_a_forced_arm_of_a_prerequisite_lets_no_one_in(config: ExperimentConfig) -> None:
    """A tester must not enter the analysis of the experiment that depends on the prerequisite."""
    first = msgspec.structs.replace(config, key="first", salt="first-1")
    second = msgspec.structs.replace(config, prerequisites=(Prerequisite("first", ("treatment", "control")),))
    forced = PublishedExperiment(first, 1, "running", (Override("tester", "treatment", NOW_US),))
    both = prepare_all([forced, PublishedExperiment(second, 1)], clock=at(0))
    assert both["ranking"].assign("tester").reason is Reason.PREREQUISITE_NOT_MET
    assert both["ranking"].assign("other").enrolled


def test_prerequisites_in_a_cycle_are_refused(config: ExperimentConfig) -> None:
    circle = [
        msgspec.structs.replace(config, key=key, salt=key, prerequisites=(Prerequisite(needs, ("control",)),))
        for key, needs in (("a", "b"), ("b", "c"), ("c", "a"))
    ]
    with pytest.raises(ConfigError, match="a, b, c form a cycle"):
        prepare_all([PublishedExperiment(each, 1) for each in circle])


def test_targeting_comes_before_the_gate_and_has_its_own_reason(config: ExperimentConfig) -> None:
    experiment = prepared(config, targeting='country == "DE"', coverage=0)
    assert experiment.assign("u", {"country": "DE"}).reason is Reason.OUTSIDE_COVERAGE
    assert experiment.assign("u", {"country": "FR"}).reason is Reason.NOT_TARGETED
    assert experiment.assign("u").reason is Reason.ATTRIBUTE_MISSING
    assert experiment.explain("u", {"country": 1})[1][-1].found == 'country == "DE": not_targeted'


@given(
    st.lists(st.tuples(st.integers(1, 10**6), st.integers(0, 10_000)), max_size=4, unique_by=lambda step: step[0]),
    st.integers(0, 10_000),
    st.tuples(st.integers(-10, 10**6 + 10), st.integers(-10, 10**6 + 10)),
    st.text(min_size=1, max_size=10),
    st.sampled_from(["sha256", "gb2"]),
)
def test_a_ramp_nests_over_time_and_equals_the_coverage_at_each_time(
    steps: list[tuple[int, int]], first: int, times: tuple[int, int], unit: str, hash_version: Any
) -> None:
    """Enrolled units stay in the same arm; a held ramp keeps its coverage of that time forever."""
    coverages = sorted([first, *(coverage for _, coverage in steps)])
    ramp = tuple(
        RampStep(NOW + timedelta(seconds=seconds), coverage)
        for (seconds, _), coverage in zip(sorted(steps), coverages[1:], strict=True)
    )
    arms = (Arm("a", 2_500), Arm("b", 7_500))
    config = ExperimentConfig(
        key="e", salt="s", coverage=coverages[0], arms=arms, control="a", ramp=ramp, hash_version=hash_version
    )
    early, late = (NOW_US + seconds * 1_000_000 for seconds in sorted(times))
    then, later = (prepare(PublishedExperiment(config, 1), clock=at(time)).assign(unit) for time in (early, late))
    assert not then.enrolled or (later.enrolled and later.arm == then.arm)
    now = msgspec.structs.replace(config, coverage=config.coverage_at(early), ramp=())
    assert now == config.held(early)
    assert prepare(PublishedExperiment(now, 1)).assign(unit) == then


@given(
    st.lists(st.integers(1, 9_999), min_size=1, max_size=5, unique=True),
    st.integers(0, 10_000),
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8), min_size=1, max_size=50),
)
def test_gb2_puts_every_unit_where_growthbook_puts_it(cuts: list[int], coverage: int, units: list[str]) -> None:
    """Compared with the SDK itself, with any weights and coverage, floats included (A4)."""
    growthbook = pytest.importorskip("growthbook")
    weights = [end - start for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), 10_000], strict=True)]
    arms = tuple(Arm(f"arm-{i}", weight) for i, weight in enumerate(weights))
    config = ExperimentConfig(key="e", salt="seed", coverage=coverage, arms=arms, control="arm-0", hash_version="gb2")
    ours = prepare(PublishedExperiment(config, 1))
    theirs = growthbook.Experiment(
        key="e", variations=[arm.key for arm in arms], seed="seed", hashVersion=2, coverage=coverage / 10_000,
        weights=[weight / 10_000 for weight in weights],
    )  # fmt: skip
    sdk = growthbook.GrowthBook(attributes={})
    for unit in units:
        sdk.set_attributes({"id": unit})
        result = sdk.run(theirs)
        assignment = ours.assign(unit)
        if assignment.reason.startswith("unit_"):
            continue
        assert assignment.enrolled == result.inExperiment
        assert not assignment.enrolled or assignment.arm == result.value


@pytest.mark.parametrize("weights", [(5_000, 5_000), (3_334, 3_333, 3_333), (1_000, 1_100, 7_900), (1, 9_999)])
def test_gb2_agrees_with_growthbook_in_every_single_bucket(weights: tuple[int, ...]) -> None:
    core = pytest.importorskip("growthbook.core")
    arms = tuple(Arm(f"arm-{i}", weight) for i, weight in enumerate(weights))
    for coverage in (0, 1, 333, 1_000, 2_999, 7_000, 9_999, 10_000):
        config = ExperimentConfig(key="e", salt="s", coverage=coverage, arms=arms, control="arm-0", hash_version="gb2")
        ours = prepare(PublishedExperiment(config, 1))
        ranges = core.getBucketRanges(len(arms), coverage / 10_000, [weight / 10_000 for weight in weights])
        expected = [core.chooseVariation(n / 10_000, ranges) for n in range(10_000)]
        arm_of = np.searchsorted(ours.arm_ends, np.arange(10_000), side="right")
        result = [int(arm) if n < ours.gates()[arm] else -1 for n, arm in enumerate(arm_of)]
        assert result == expected


def test_all_experiments_of_a_unit_are_decided_as_each_alone(config: ExperimentConfig) -> None:
    experiments = [prepared(config, key=f"e{i}", salt=f"e{i}", coverage=i * 500) for i in range(20)]

    class Shouting(str):
        """A text whose `__str__` differs from the hashed text."""

        def encode(self, *_: Any) -> bytes:
            return b"LOUD"

    for unit in [*UNITS[:50], None, "", 7, "é", "\ud800", "a\0", "x" * 1_025, Shouting("user-1")]:
        assert assign_all(experiments, unit) == {each.key: each.assign(unit) for each in experiments}
    shouted = assign_all(experiments, Shouting("user-1"))
    assert shouted == assign_all(experiments, "user-1")
    assert {type(assignment.unit) for assignment in shouted.values()} == {str}

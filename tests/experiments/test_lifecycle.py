"""Which edit is safe, phases, ramps, the schedule, forced arms, and that every act stands in the audit log."""

import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, text

from experiments import lifecycle
from experiments.config import (
    Arm,
    ExperimentConfig,
    Holdout,
    LayerRange,
    MetricRole,
    Override,
    Prerequisite,
    PublishedExperiment,
    RampStep,
)
from experiments.errors import (
    ConfigError,
    ConflictError,
    ExperimentsError,
    ScheduleError,
    TransitionError,
    UnknownExperimentError,
)
from experiments.evaluator import prepare
from experiments.event_rows import EventRow
from experiments.records import Scheduled
from experiments.schedule import due
from experiments.store import ExperimentStore
from experiments.text_rules import time_text

WHO: dict[str, str] = {"actor": "ada", "reason": "test"}
NOW = 1_700_000_000_000_000
HOUR = 3_600_000_000


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Any:
    engine = create_engine(f"sqlite:///{tmp_path / 'life.db'}")
    store = ExperimentStore(engine, clock=clock)
    store.create_all()
    yield store
    engine.dispose()


def changed(config: ExperimentConfig, **changes: Any) -> ExperimentConfig:
    return msgspec.structs.replace(config, **changes)


def live(store: ExperimentStore, config: ExperimentConfig) -> None:
    store.create_experiment(config.key, actor="ada")
    store.publish(config, actor="ada")
    store.start(config.key, **WHO)


def step(hours: int, coverage: int) -> RampStep:
    return RampStep(datetime.fromtimestamp((NOW + hours * HOUR) / 1e6, UTC), coverage)


RICH = {
    "coverage": 2_000,
    "targeting": "country == 'DE' && age > 17",
    "holdouts": (Holdout("all", 500),),
    "prerequisites": (Prerequisite("base", ("on",)),),
    "ramp": (step(-1, 3_000), step(1, 4_000)),
}


@pytest.mark.parametrize(
    ("change", "unsafe"),
    [
        ({"description": "again"}, None),
        ({"metrics": (MetricRole("gmv", "guardrail"),)}, None),
        ({"surfaces": ("search",)}, None),
        ({"ramp": (step(-1, 3_000), step(2, 9_000))}, None),
        ({"ramp": (step(-1, 3_000),)}, None),
        ({"coverage": 3_000, "ramp": ()}, None),
        ({"coverage": 2_000, "ramp": ()}, "coverage lowered from 3000 to 2000"),
        ({"ramp": (step(1, 3_000),)}, "coverage lowered from 3000 to 2000"),
        ({"targeting": ""}, None),
        ({"targeting": "age > 17"}, None),
        ({"targeting": "age > 17 && country == 'DE'"}, None),
        ({"targeting": "age > 18"}, "targeting has a condition that it had not"),
        ({"targeting": "country == 'DE' && age > 17 && paid"}, "targeting has a condition"),
        ({"targeting": "country == 'DE' || age > 17"}, "targeting has a condition"),
        ({"holdouts": ()}, None),
        ({"holdouts": (Holdout("all", 400),)}, None),
        ({"holdouts": (Holdout("all", 600),)}, "holdout all is new or larger"),
        ({"holdouts": (Holdout("all", 500), Holdout("more", 1))}, "holdout more is new or larger"),
        ({"prerequisites": ()}, None),
        ({"prerequisites": (Prerequisite("base", ("on", "off")),)}, None),
        ({"prerequisites": (Prerequisite("base", ("off",)),)}, "prerequisite base is new or names fewer arms"),
        ({"prerequisites": (*RICH["prerequisites"], Prerequisite("c", ("d",)))}, "prerequisite c is new"),  # type: ignore[misc]
        ({"arms": (Arm("control", 6_000), Arm("treatment", 4_000))}, "arms changed"),
        ({"salt": "other"}, "salt changed"),
        ({"hash_version": "gb2"}, "hash_version changed"),
        ({"unit_kind": "session"}, "unit_kind changed"),
        ({"layer": LayerRange("home", 0, 5)}, "layer changed"),
    ],
)
def test_an_edit_is_safe_when_it_puts_no_unit_out_and_moves_none(
    config: ExperimentConfig, change: dict[str, Any], unsafe: str | None
) -> None:
    old = changed(config, **RICH)
    new = changed(old, **change)
    found = [each.unsafe for each in lifecycle.changes(old, new, NOW)]
    assert {each.field for each in lifecycle.changes(old, new, NOW)} == {*change} - (
        {"coverage"} if change.get("coverage") == 2_000 else set()
    )
    if unsafe is None:
        assert not any(found)
        lifecycle.check_edit(old, new, NOW)
    else:
        with pytest.raises(ConfigError, match=unsafe):
            lifecycle.check_edit(old, new, NOW)


def test_every_field_of_a_config_is_judged(config: ExperimentConfig) -> None:
    """A field that is added later is unsafe until someone says otherwise: here is what is free of judgement."""
    free = {name for name in ExperimentConfig.__struct_fields__ if name in lifecycle._FREE}
    assert free == {"schema", "description", "surfaces", "metrics", "record"}


@pytest.mark.parametrize(
    ("condition", "parts"),
    [
        ("", ()),
        ("a", ("a",)),
        ("a && b&&c", ("a", "b", "c")),
        ("(a && b) && c", ("(a && b)", "c")),
        ('a == \' && \' && b == "x\\" && "', ("a == ' && '", 'b == "x\\" && "')),
        ("a && b || c", ("a && b || c",)),
        ("a && b ? c : d", ("a && b ? c : d",)),
        ("[a && b].size() > 0 && c", ("[a && b].size() > 0", "c")),
    ],
)
def test_a_condition_is_split_at_its_outermost_ands(condition: str, parts: tuple[str, ...]) -> None:
    assert lifecycle.conjuncts(condition) == parts


def test_a_new_phase_draws_anew_and_its_report_starts_from_nothing(
    store: ExperimentStore, config: ExperimentConfig
) -> None:
    live(store, config)
    unit = next(u for u in map(str, range(99)) if prepare(store.load()[0]).assign(u).arm == "control")
    assert _expose(store, unit, "control", 1) == 1
    new = changed(config, salt="ranking-2", arms=(Arm("control", 1_000), Arm("treatment", 9_000)))
    with pytest.raises(ConfigError, match=r"salt 'ranking-1' is that of phase 1\. Give a new one, such as 'ranking-2'"):
        store.new_phase(changed(new, salt="ranking-1"), **WHO)
    assert store.new_phase(new, **WHO) == 2
    assert _first_exposures(store) == []
    assert _expose(store, unit, "treatment", 2) == 1
    assert _expose(store, unit, "control", 1, "late") == 1  # of the phase before, arriving late
    assert _first_exposures(store) == [(unit, "treatment")]
    (published,) = store.load()
    assert (published.config, published.version, published.state) == (new, 2, "running")
    assert [(v.version, v.phase) for v in store.versions("ranking")] == [(1, 1), (2, 2)]
    assert store.experiments()[0].phase == 2
    with pytest.raises(ConflictError, match="salt 'ranking-1' is that of its phase 1"):
        store.new_phase(config, **WHO)


def _expose(store: ExperimentStore, unit: str, arm: str, version: int, name: str = "") -> int:
    row = EventRow(
        event_id=f"{unit}-{arm}-{version}{name}",
        kind="exposure",
        unit_id=unit,
        event_time=NOW,
        experiment="ranking",
        arm=arm,
        config_version=version,
    )
    return store.write_events([row]).written


def _first_exposures(store: ExperimentStore) -> list[tuple[Any, ...]]:
    with store.engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text("select unit_id, arm from first_exposure"))]


def test_what_was_stopped_runs_again_only_in_a_new_phase(store: ExperimentStore, config: ExperimentConfig) -> None:
    live(store, config)
    store.stop("ranking", **WHO)
    with pytest.raises(TransitionError, match="or run again in a new phase with a new salt"):
        store.start("ranking", **WHO)
    assert store.new_phase(changed(config, salt="ranking-2"), **WHO) == 2
    assert store.history("ranking")[-1].state == "running"


def test_a_new_phase_takes_no_layer_range_that_is_held(store: ExperimentStore, config: ExperimentConfig) -> None:
    store.create_layer("home", **WHO)
    live(store, changed(config, layer=LayerRange("home", 0, 5_000)))
    live(store, changed(config, key="two", salt="two-1", layer=LayerRange("home", 5_000, 9_000)))
    with pytest.raises(ConflictError, match="'two' is live on"):
        store.new_phase(changed(config, salt="ranking-2", layer=LayerRange("home", 0, 5_001)), **WHO)
    assert [v.version for v in store.versions("ranking")] == [1]
    assert store.experiments()[0].phase == 1


@pytest.mark.parametrize("state", ["draft", "archived"])
def test_a_phase_follows_one_that_ran(store: ExperimentStore, config: ExperimentConfig, state: str) -> None:
    store.create_experiment("ranking", actor="ada")
    store.publish(config, actor="ada")
    if state == "archived":
        store.archive("ranking", **WHO)
    with pytest.raises(TransitionError, match=f"is {state}"):
        store.new_phase(changed(config, salt="ranking-2"), **WHO)


def test_a_review_is_of_what_was_published(store: ExperimentStore, config: ExperimentConfig) -> None:
    """Nothing changes below the reviewer's eyes; back in draft, the latest version counts."""
    store.create_experiment("ranking", actor="ada")
    with pytest.raises(UnknownExperimentError, match="nothing is published"):
        store.submit("ranking", **WHO)
    store.publish(config, actor="ada")
    assert store.submit("ranking", **WHO).version == 1
    assert store.load() == []
    with pytest.raises(TransitionError, match="take it back to draft"):
        store.publish(changed(config, coverage=7), actor="ada")
    store.revise("ranking", **WHO)
    assert store.publish(changed(config, coverage=7), actor="ada") == 2
    store.submit("ranking", **WHO)
    assert store.start("ranking", **WHO).version == 2


def test_a_decided_experiment_is_archived_with_its_outcome(store: ExperimentStore, config: ExperimentConfig) -> None:
    live(store, config)
    store.stop("ranking", **WHO)
    store.decide("ranking", "ship", **WHO)
    assert store.archive("ranking", **WHO).outcome == "ship"
    with pytest.raises(TransitionError, match="nothing follows"):
        store.transition("ranking", "running", **WHO)


def test_a_ramp_raises_the_coverage_and_keeps_the_steps_to_come(
    store: ExperimentStore, config: ExperimentConfig
) -> None:
    live(store, changed(config, coverage=100, ramp=(step(-1, 200), step(1, 500), step(2, 900))))
    assert store.ramp("ranking", 600, **WHO) == 2
    (published,) = store.load()
    assert (published.config.coverage, published.config.ramp) == (600, (step(2, 900),))
    for wrong in (600, 599, 10_001):
        with pytest.raises(ConfigError, match=f"raises the coverage from 600, to at most 10000; got {wrong}"):
            store.ramp("ranking", wrong, **WHO)
    store.stop("ranking", **WHO)
    with pytest.raises(TransitionError, match="is stopped; only a running or paused one is ramped"):
        store.ramp("ranking", 700, **WHO)


def test_to_hold_a_ramp_keeps_who_is_in_and_lets_nobody_follow(
    store: ExperimentStore, config: ExperimentConfig, clock: Clock
) -> None:
    live(store, changed(config, coverage=100, ramp=(step(-1, 200), step(1, 500))))
    waiting = store.schedule("ranking", "ramp", NOW + HOUR, coverage=900, **WHO)
    evidence = {"metric": "latency", "p": 0.001}
    assert store.hold("ranking", actor="guard", reason="latency is worse", evidence=evidence) == 2
    last = store.history("ranking")[-1]
    assert (last.state, last.evidence, last.actor) == ("running", evidence, "guard")
    clock.now += 5 * HOUR
    assert store.run_due() == []
    assert [(row.id, row.result) for row in store.scheduled("ranking")] == [(waiting, "cancelled")]
    (published,) = store.load()
    assert published.config.coverage_at(clock.now) == 200
    before = store.audit()
    assert store.hold("ranking", **WHO) == 2  # nothing is left to hold: neither a version nor a row in the log
    assert (store.audit(), len(store.versions("ranking"))) == (before, 2)


@settings(max_examples=40, deadline=None)
@given(
    start=st.integers(0, 9_000),
    raises=st.lists(st.integers(1, 3_000), min_size=1, max_size=4),
    weight=st.integers(1, 9_999),
)
def test_ramps_nest_and_move_nobody(start: int, raises: list[int], weight: int) -> None:
    """Whoever is enrolled stays enrolled in the same arm at every later coverage."""
    config = ExperimentConfig(
        key="ramped",
        salt="ramped-1",
        coverage=start,
        arms=(Arm("control", weight), Arm("treatment", 10_000 - weight)),
        control="control",
    )
    units = [f"u{i}" for i in range(150)]
    before: dict[str, str] = {}
    coverage = start
    for more in [0, *raises]:
        following = min(10_000, coverage + more)
        new = changed(config, coverage=following)
        lifecycle.check_edit(config, new, NOW)
        decide = prepare(PublishedExperiment(new, 1)).assign
        after = {d.unit: d.arm for d in map(decide, units) if d.enrolled}
        assert before.items() <= after.items()
        config, coverage, before = new, following, after  # type: ignore[assignment]


@settings(max_examples=15, deadline=None)
@given(
    ranges=st.lists(st.tuples(st.integers(0, 9_999), st.integers(1, 4_000)), min_size=2, max_size=5),
)
def test_live_experiments_of_a_layer_share_no_bucket(
    tmp_path_factory: pytest.TempPathFactory, empty_database: Path, ranges: list[tuple[int, int]]
) -> None:
    """Whatever is started in whatever order: who is refused overlaps one that runs, who is not overlaps none."""
    engine = create_engine(f"sqlite:///{shutil.copy(empty_database, tmp_path_factory.mktemp('layers'))}")
    store = ExperimentStore(engine)
    store.create_layer("home", **WHO)
    taken: list[range] = []
    for number, (start, size) in enumerate(ranges):
        end = min(10_000, start + size)
        wanted = LayerRange("home", start, end)
        config = ExperimentConfig(
            key=f"e{number}",
            salt=f"e{number}-1",
            coverage=10_000,
            arms=(Arm("a", 5_000), Arm("b", 5_000)),
            control="a",
            layer=wanted,
        )
        overlaps = any(start < other.stop and other.start < end for other in taken)
        try:
            live(store, config)
        except ConflictError:
            assert overlaps
            assert store.history(config.key)[-1].state == "draft"
        else:
            assert not overlaps
            taken.append(range(start, end))
    engine.dispose()


@given(
    commands=st.lists(
        st.builds(
            Scheduled,
            st.integers(1, 50),
            st.just("e"),
            st.integers(0, 20),
            st.just("stop"),
            st.none(),
            st.just("a"),
            st.just(""),
            st.sampled_from([None, "done", "failed", "cancelled"]),
        ),
        unique_by=lambda command: command.id,
    ),
    now=st.integers(0, 20),
)
def test_what_is_due_waits_no_longer_and_comes_in_its_order(commands: list[Scheduled], now: int) -> None:
    found = due(commands, now)
    assert {c.id for c in found} == {c.id for c in commands if c.result is None and c.at <= now}
    assert [(c.at, c.id) for c in found] == sorted((c.at, c.id) for c in found)


def test_scheduled_commands_run_once_when_their_time_has_come(
    store: ExperimentStore, config: ExperimentConfig, clock: Clock
) -> None:
    store.create_experiment("ranking", actor="ada")
    store.publish(changed(config, coverage=100), actor="ada")
    plan: list[tuple[Any, int, int | None]] = [
        ("stop", 4, None),
        ("start", 1, None),
        ("ramp", 2, 500),
        ("ramp", 3, 2_000),
    ]
    for action, hours, coverage in plan:
        store.schedule("ranking", action, NOW + hours * HOUR, coverage=coverage, actor="ada", reason="plan")
    assert store.run_due() == []
    told = []
    for _ in range(5):
        clock.now += HOUR
        told.append([(ran.command.action, ran.error) for ran in store.run_due()])
        assert store.run_due() == []
    assert told == [[("start", None)], [("ramp", None)], [("ramp", None)], [("stop", None)], []]
    history = store.history("ranking")
    assert [(row.state, row.version) for row in history[1:]] == [
        ("running", 1), ("running", 2), ("running", 3), ("stopped", 3),
    ]  # fmt: skip
    assert {(row.actor, row.reason) for row in history[1:]} == {("ada", "plan")}
    assert store.version("ranking").config.coverage == 2_000


def test_a_scheduler_that_was_away_catches_up_in_order(
    store: ExperimentStore, config: ExperimentConfig, clock: Clock
) -> None:
    store.create_experiment("ranking", actor="ada")
    store.publish(changed(config, coverage=100), actor="ada")
    for hours, action, coverage in ((3, "ramp", 2_000), (1, "start", None), (2, "ramp", 500)):
        store.schedule("ranking", action, NOW + hours * HOUR, coverage=coverage, **WHO)  # type: ignore[arg-type]
    clock.now += 9 * HOUR
    assert [ran.error for ran in store.run_due()] == [None, None, None]
    assert store.version("ranking").config.coverage == 2_000


def test_a_stop_that_is_due_before_a_ramp_leaves_nothing_of_it(
    store: ExperimentStore, config: ExperimentConfig, clock: Clock
) -> None:
    live(store, changed(config, coverage=5))
    store.schedule("ranking", "stop", NOW + 1, **WHO)
    store.schedule("ranking", "ramp", NOW + 2, coverage=500, **WHO)
    clock.now += HOUR
    assert [(ran.command.action, ran.error) for ran in store.run_due()] == [("stop", None)]
    assert [row.result for row in store.scheduled()] == ["done", "cancelled"]


def test_many_schedulers_at_once_run_each_command_once(
    store: ExperimentStore, config: ExperimentConfig, clock: Clock
) -> None:
    live(store, changed(config, coverage=5))
    for number in range(1, 9):
        store.schedule("ranking", "ramp", NOW + number, coverage=100 * number, **WHO)
    clock.now += HOUR
    ran: list[Any] = []
    threads = [threading.Thread(target=lambda: ran.extend(store.run_due())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(each.command.coverage for each in ran if each.error is None) == [100 * n for n in range(1, 9)]
    assert [version.config.coverage for version in store.versions("ranking")] == [5, *(100 * n for n in range(1, 9))]


def test_a_command_that_the_life_cycle_refuses_is_noted_and_not_tried_again(
    store: ExperimentStore, config: ExperimentConfig, clock: Clock
) -> None:
    live(store, config)
    store.schedule("ranking", "ramp", NOW + 1, coverage=500, **WHO)
    other = store.schedule("ranking", "pause", NOW + 2, **WHO)
    clock.now += HOUR
    failed, done = store.run_due()
    assert failed.error is not None
    assert "raises the coverage from 10000" in failed.error
    assert done.error is None
    rows = store.scheduled("ranking")
    assert [(row.result, row.detail) for row in rows] == [("failed", failed.error), ("done", "")]
    assert rows[1].id == other
    assert store.run_due() == []
    assert store.history("ranking")[-1].state == "paused"


def test_a_stop_cancels_what_is_scheduled(store: ExperimentStore, config: ExperimentConfig, clock: Clock) -> None:
    live(store, changed(config, coverage=5))
    store.schedule("ranking", "ramp", NOW + HOUR, coverage=500, **WHO)
    store.stop("ranking", **WHO)
    assert [(row.result, row.detail) for row in store.scheduled()] == [("cancelled", "the experiment is stopped")]
    clock.now += 2 * HOUR
    assert store.run_due() == []


def test_a_command_is_taken_back_once(store: ExperimentStore, config: ExperimentConfig) -> None:
    live(store, config)
    number = store.schedule("ranking", "stop", NOW + HOUR, **WHO)
    store.cancel(number, actor="bob", reason="changed our minds")
    with pytest.raises(UnknownExperimentError, match=f"no scheduled command {number} waits"):
        store.cancel(number, **WHO)
    assert store.scheduled(pending=True) == []


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.schedule("ranking", "stop", NOW, **WHO), f"at {time_text(NOW)} lies in the past"),
        (lambda s: s.schedule("ranking", "stop", NOW + 1, coverage=5, **WHO), "a ramp has a coverage"),
        (lambda s: s.schedule("ranking", "ramp", NOW + 1, **WHO), "a ramp has a coverage"),
        (lambda s: s.schedule("ranking", "ramp", NOW + 1, coverage=10_001, **WHO), "1 to 10000"),
    ],
)
def test_a_command_that_cannot_be_kept_is_refused(
    store: ExperimentStore, config: ExperimentConfig, call: Callable[[ExperimentStore], int], message: str
) -> None:
    live(store, config)
    with pytest.raises(ScheduleError, match=message):
        call(store)
    assert store.scheduled() == []
    store.stop("ranking", **WHO)
    with pytest.raises(ScheduleError, match="nothing is left to schedule"):
        store.schedule("ranking", "stop", NOW + 1, **WHO)


def test_prerequisites_that_go_in_a_circle_are_never_published(
    store: ExperimentStore, config: ExperimentConfig
) -> None:
    first = changed(config, prerequisites=(Prerequisite("two", ("control",)),))
    second = changed(config, key="two", salt="two-1", prerequisites=(Prerequisite("ranking", ("control",)),))
    for each in (first, second):
        store.create_experiment(each.key, actor="ada")
    store.publish(first, actor="ada")
    with pytest.raises(ConflictError, match="two -> ranking -> two"):
        store.publish(second, actor="ada")
    assert store.versions("two") == []
    with pytest.raises(ConflictError, match="'two' does not run"):
        store.start("ranking", **WHO)


def test_a_forced_arm_is_served_until_it_expires_and_says_no_unit_in_the_log(
    store: ExperimentStore, config: ExperimentConfig, clock: Clock
) -> None:
    live(store, config)
    store.force_arm("ranking", Override("tester", "treatment", NOW + HOUR), **WHO)
    assignment = prepare(store.load()[0], clock=clock).assign("tester")
    assert (assignment.arm, assignment.enrolled) == ("treatment", False)
    store.force_arm("ranking", Override("tester", "control", NOW + HOUR), **WHO)  # replaces
    assert [o.arm for o in store.load()[0].overrides] == ["control"]
    assert "tester" not in repr(store.audit())
    clock.now += HOUR
    assert store.load()[0].overrides == ()
    with pytest.raises(ConfigError, match="is past"):
        store.force_arm("ranking", Override("tester", "control", NOW), **WHO)
    with pytest.raises(ConfigError, match="'third' is not one of the arms"):
        store.force_arm("ranking", Override("tester", "third", NOW + 9 * HOUR), **WHO)
    assert store.clear_arm("ranking", "tester", **WHO) is True
    assert store.clear_arm("ranking", "tester", **WHO) is False


def test_every_act_stands_in_the_audit_log_and_a_refused_one_does_not(
    store: ExperimentStore, config: ExperimentConfig
) -> None:
    narrow = changed(config, coverage=100)
    acts: list[tuple[str, Callable[[], Any]]] = [
        ("create", lambda: store.create_experiment("ranking", **WHO)),
        ("publish", lambda: store.publish(narrow, **WHO)),
        ("in_review", lambda: store.submit("ranking", **WHO)),
        ("running", lambda: store.start("ranking", **WHO)),
        ("ramp", lambda: store.ramp("ranking", 200, **WHO)),
        ("schedule", lambda: store.schedule("ranking", "stop", NOW + 1, **WHO)),
        ("cancel", lambda: store.cancel(1, **WHO)),
        ("hold", lambda: store.hold("ranking", **WHO)),
        ("force_arm", lambda: store.force_arm("ranking", Override("u", "control", NOW + 1), **WHO)),
        ("clear_arm", lambda: store.clear_arm("ranking", "u", **WHO)),
        ("new_phase", lambda: store.new_phase(changed(config, salt="r2"), **WHO)),
        ("paused", lambda: store.pause("ranking", **WHO)),
        ("stopped", lambda: store.stop("ranking", evidence={"p": 0.01}, **WHO)),
        ("decided", lambda: store.decide("ranking", "roll_back", **WHO)),
        ("archived", lambda: store.archive("ranking", **WHO)),
    ]
    for name, act in acts:
        before = store.audit()
        act()
        entry, *rest = store.audit()
        assert rest == before
        assert (entry.action, entry.subject, entry.actor, entry.reason, entry.at) == (
            name,
            "ranking",
            "ada",
            "test",
            NOW,
        )
    assert store.audit()[2].detail["evidence"] == {"p": 0.01}
    before = store.audit()
    for _, act in acts:
        with suppress(ExperimentsError):
            act()
        assert store.audit() == before
    assert [e.id for e in store.audit(before=before[3].id, limit=2)] == [e.id for e in before[4:6]]
    assert store.audit("other") == []


def test_an_act_without_an_actor_writes_nothing(store: ExperimentStore, config: ExperimentConfig) -> None:
    live(store, config)
    before = store.audit()
    for act in (store.pause, store.stop):
        with pytest.raises(TransitionError, match="the actor is empty"):
            act("ranking", actor="", reason="x")
    assert store.audit() == before

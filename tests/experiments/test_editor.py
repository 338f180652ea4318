"""Changes of experiments through the store: phases, reviews, ramps, overrides, and rules between experiments."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, text

from experiments.config import Arm, ExperimentConfig, LayerRange, Override, Prerequisite
from experiments.errors import ConfigError, ConflictError, TransitionError, UnknownExperimentError
from experiments.evaluator import prepare
from experiments.event_rows import EventRow
from experiments.store import ExperimentStore
from tests.experiments.builders import HOUR, NOW, WHO, Clock, changed, start_live
from tests.experiments.builders import ramp_step as step


def test_a_new_phase_has_new_draws_and_an_empty_report(store: ExperimentStore, config: ExperimentConfig) -> None:
    start_live(store, config)
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


def test_a_stopped_experiment_runs_again_only_in_a_new_phase(store: ExperimentStore, config: ExperimentConfig) -> None:
    start_live(store, config)
    store.stop("ranking", **WHO)
    with pytest.raises(TransitionError, match="or run again in a new phase with a new salt"):
        store.start("ranking", **WHO)
    assert store.new_phase(changed(config, salt="ranking-2"), **WHO) == 2
    assert store.history("ranking")[-1].state == "running"


def test_a_new_phase_takes_no_layer_range_that_is_held(store: ExperimentStore, config: ExperimentConfig) -> None:
    store.create_layer("home", **WHO)
    start_live(store, changed(config, layer=LayerRange("home", 0, 5_000)))
    start_live(store, changed(config, key="two", salt="two-1", layer=LayerRange("home", 5_000, 9_000)))
    with pytest.raises(ConflictError, match="'two' is live on"):
        store.new_phase(changed(config, salt="ranking-2", layer=LayerRange("home", 0, 5_001)), **WHO)
    assert [v.version for v in store.versions("ranking")] == [1]
    assert store.experiments()[0].phase == 1


@pytest.mark.parametrize("state", ["draft", "archived"])
def test_a_new_phase_follows_a_phase_that_ran(store: ExperimentStore, config: ExperimentConfig, state: str) -> None:
    store.create_experiment("ranking", actor="ada")
    store.publish(config, actor="ada")
    if state == "archived":
        store.archive("ranking", **WHO)
    with pytest.raises(TransitionError, match=f"is {state}"):
        store.new_phase(changed(config, salt="ranking-2"), **WHO)


def test_a_review_covers_the_published_version(store: ExperimentStore, config: ExperimentConfig) -> None:
    """A config cannot change during the review; back in draft, the newest version counts."""
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
    start_live(store, config)
    store.stop("ranking", **WHO)
    store.decide("ranking", "ship", **WHO)
    assert store.archive("ranking", **WHO).outcome == "ship"
    with pytest.raises(TransitionError, match="no state follows"):
        store.transition("ranking", "running", **WHO)


def test_a_ramp_raises_the_coverage_and_keeps_the_steps_to_come(
    store: ExperimentStore, config: ExperimentConfig
) -> None:
    start_live(store, changed(config, coverage=100, ramp=(step(-1, 200), step(1, 500), step(2, 900))))
    assert store.ramp("ranking", 600, **WHO) == 2
    (published,) = store.load()
    assert (published.config.coverage, published.config.ramp) == (600, (step(2, 900),))
    for wrong in (600, 599, 10_001):
        with pytest.raises(ConfigError, match=f"raises the coverage from 600, to at most 10000; got {wrong}"):
            store.ramp("ranking", wrong, **WHO)
    store.stop("ranking", **WHO)
    with pytest.raises(TransitionError, match="is stopped; only a running or paused one can be ramped"):
        store.ramp("ranking", 700, **WHO)


def test_hold_keeps_enrolled_units_and_adds_no_others(
    store: ExperimentStore, config: ExperimentConfig, clock: Clock
) -> None:
    start_live(store, changed(config, coverage=100, ramp=(step(-1, 200), step(1, 500))))
    number = store.schedule("ranking", "ramp", NOW + HOUR, coverage=900, **WHO)
    evidence = {"metric": "latency", "p": 0.001}
    assert store.hold("ranking", actor="guard", reason="latency is worse", evidence=evidence) == 2
    last = store.history("ranking")[-1]
    assert (last.state, last.evidence, last.actor) == ("running", evidence, "guard")
    clock.now += 5 * HOUR
    assert store.run_due() == []
    assert [(row.id, row.result) for row in store.scheduled("ranking")] == [(number, "cancelled")]
    (published,) = store.load()
    assert published.config.coverage_at(clock.now) == 200
    before = store.audit()
    assert store.hold("ranking", **WHO) == 2  # a second hold adds neither a version nor an audit entry
    assert (store.audit(), len(store.versions("ranking"))) == (before, 2)


@settings(max_examples=15, deadline=None)
@given(
    ranges=st.lists(st.tuples(st.integers(0, 9_999), st.integers(1, 4_000)), min_size=2, max_size=5),
)
def test_live_experiments_of_a_layer_share_no_bucket(
    tmp_path_factory: pytest.TempPathFactory, empty_database: Path, ranges: list[tuple[int, int]]
) -> None:
    """In any order of starts, a refused experiment overlaps a running one, and an accepted one overlaps none."""
    engine = create_engine(f"sqlite:///{shutil.copy(empty_database, tmp_path_factory.mktemp('layers'))}")
    store = ExperimentStore(engine)
    store.create_layer("home", **WHO)
    taken: list[range] = []
    for number, (start, size) in enumerate(ranges):
        end = min(10_000, start + size)
        layer = LayerRange("home", start, end)
        config = ExperimentConfig(
            key=f"e{number}",
            salt=f"e{number}-1",
            coverage=10_000,
            arms=(Arm("a", 5_000), Arm("b", 5_000)),
            control="a",
            layer=layer,
        )
        overlaps = any(start < other.stop and other.start < end for other in taken)
        try:
            start_live(store, config)
        except ConflictError:
            assert overlaps
            assert store.history(config.key)[-1].state == "draft"
        else:
            assert not overlaps
            taken.append(range(start, end))
    engine.dispose()


def test_prerequisites_that_form_a_cycle_are_never_published(store: ExperimentStore, config: ExperimentConfig) -> None:
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


def test_an_override_is_served_until_it_expires_and_the_audit_log_has_no_unit(
    store: ExperimentStore, config: ExperimentConfig, clock: Clock
) -> None:
    start_live(store, config)
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

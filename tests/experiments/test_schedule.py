"""Scheduled commands run once when they are due; those that cannot run are recorded as failed."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.config import ExperimentConfig
from experiments.errors import ScheduleError, UnknownExperimentError
from experiments.records import Scheduled
from experiments.schedule import due
from experiments.store import ExperimentStore
from experiments.times import time_text
from tests.experiments.builders import HOUR, NOW, WHO, Clock, changed, start_live


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
def test_due_commands_are_pending_and_sorted_by_time(commands: list[Scheduled], now: int) -> None:
    commands_due = due(commands, now)
    assert {c.id for c in commands_due} == {c.id for c in commands if c.result is None and c.at <= now}
    assert [(c.at, c.id) for c in commands_due] == sorted((c.at, c.id) for c in commands_due)


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
    results = []
    for _ in range(5):
        clock.now += HOUR
        results.append([(ran.command.action, ran.error) for ran in store.run_due()])
        assert store.run_due() == []
    assert results == [[("start", None)], [("ramp", None)], [("ramp", None)], [("stop", None)], []]
    history = store.history("ranking")
    assert [(row.state, row.version) for row in history[1:]] == [
        ("running", 1), ("running", 2), ("running", 3), ("stopped", 3),
    ]  # fmt: skip
    assert {(row.actor, row.reason) for row in history[1:]} == {("ada", "plan")}
    assert store.version("ranking").config.coverage == 2_000


def test_a_late_scheduler_runs_all_due_commands_in_order(
    store: ExperimentStore, config: ExperimentConfig, clock: Clock
) -> None:
    store.create_experiment("ranking", actor="ada")
    store.publish(changed(config, coverage=100), actor="ada")
    for hours, action, coverage in ((3, "ramp", 2_000), (1, "start", None), (2, "ramp", 500)):
        store.schedule("ranking", action, NOW + hours * HOUR, coverage=coverage, **WHO)  # type: ignore[arg-type]
    clock.now += 9 * HOUR
    assert [ran.error for ran in store.run_due()] == [None, None, None]
    assert store.version("ranking").config.coverage == 2_000


def test_a_stop_cancels_a_ramp_that_is_due_after_it(
    store: ExperimentStore, config: ExperimentConfig, clock: Clock
) -> None:
    start_live(store, changed(config, coverage=5))
    store.schedule("ranking", "stop", NOW + 1, **WHO)
    store.schedule("ranking", "ramp", NOW + 2, coverage=500, **WHO)
    clock.now += HOUR
    assert [(ran.command.action, ran.error) for ran in store.run_due()] == [("stop", None)]
    assert [row.result for row in store.scheduled()] == ["done", "cancelled"]


def test_many_schedulers_at_once_run_each_command_once(
    store: ExperimentStore, config: ExperimentConfig, clock: Clock
) -> None:
    start_live(store, changed(config, coverage=5))
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


def test_a_refused_command_is_stored_as_failed_and_not_tried_again(
    store: ExperimentStore, config: ExperimentConfig, clock: Clock
) -> None:
    start_live(store, config)
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


def test_a_stop_cancels_scheduled_commands(store: ExperimentStore, config: ExperimentConfig, clock: Clock) -> None:
    start_live(store, changed(config, coverage=5))
    store.schedule("ranking", "ramp", NOW + HOUR, coverage=500, **WHO)
    store.stop("ranking", **WHO)
    assert [(row.result, row.detail) for row in store.scheduled()] == [("cancelled", "the experiment is stopped")]
    clock.now += 2 * HOUR
    assert store.run_due() == []


def test_a_command_can_be_cancelled_once(store: ExperimentStore, config: ExperimentConfig) -> None:
    start_live(store, config)
    number = store.schedule("ranking", "stop", NOW + HOUR, **WHO)
    store.cancel(number, actor="bob", reason="changed our minds")
    with pytest.raises(UnknownExperimentError, match=f"no scheduled command {number} is pending"):
        store.cancel(number, **WHO)
    assert store.scheduled(pending=True) == []


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.schedule("ranking", "stop", NOW, **WHO), f"at {time_text(NOW)} is in the past"),
        (lambda s: s.schedule("ranking", "stop", NOW + 1, coverage=5, **WHO), "a ramp has a coverage"),
        (lambda s: s.schedule("ranking", "ramp", NOW + 1, **WHO), "a ramp has a coverage"),
        (lambda s: s.schedule("ranking", "ramp", NOW + 1, coverage=10_001, **WHO), "1 to 10000"),
    ],
)
def test_an_invalid_command_is_refused(
    store: ExperimentStore, config: ExperimentConfig, call: Callable[[ExperimentStore], int], message: str
) -> None:
    start_live(store, config)
    with pytest.raises(ScheduleError, match=message):
        call(store)
    assert store.scheduled() == []
    store.stop("ranking", **WHO)
    with pytest.raises(ScheduleError, match="nothing is left to schedule"):
        store.schedule("ranking", "stop", NOW + 1, **WHO)

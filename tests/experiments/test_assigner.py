"""The assigner works from memory, keeps the last good configs, and shows that they are stale."""

import threading
from pathlib import Path

import msgspec
import pytest

from experiments.assigner import Assigner
from experiments.assignment import Reason
from experiments.config import ExperimentConfig, Prerequisite, PublishedExperiment
from experiments.config_cache import read_configs
from experiments.event_rows import EventRow
from experiments.exposures import ExposureLogger
from experiments.store import ExperimentStore
from tests.experiments.builders import Threads, published
from tests.waiting import wait_until


def test_a_published_experiment_is_served_from_the_store(store: ExperimentStore, config: ExperimentConfig) -> None:
    assigner = Assigner(store.load)
    assert assigner.assign("u1", "ranking").reason is Reason.UNKNOWN_EXPERIMENT
    store.create_experiment("ranking", actor="ada")
    store.publish(config, actor="ada")
    assert assigner.refresh()
    assert assigner.assign("u1", "ranking").arm is None, "a draft is not served"
    for state, reason in (("running", Reason.ASSIGNED), ("paused", Reason.PAUSED), ("stopped", Reason.STOPPED)):
        store.transition("ranking", state, actor="ada", reason="test")  # type: ignore[arg-type]
        assert assigner.refresh()
        assignment = assigner.assign("u1", "ranking")
        assert (assignment.reason, assignment.enrolled) == (reason, state == "running")


def test_a_failed_refresh_keeps_the_last_good_configs_and_shows(config: ExperimentConfig) -> None:
    now = [100.0]
    answers: list[list[PublishedExperiment] | Exception] = [
        ConnectionError("database away"),
        [PublishedExperiment(config, 1)],
        ConnectionError("database away"),
        [PublishedExperiment(config, 2), PublishedExperiment(msgspec.structs.replace(config, key="b"), 1, "draft")],
        [],
    ]

    def load() -> list[PublishedExperiment]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assigner = Assigner(load, stale_after_s=30, monotonic=lambda: now[0])
    assert not assigner.refresh()
    assert msgspec.to_builtins(assigner.state) == {
        "experiments": 0, "source": "nothing", "age_s": None, "stale": True,
        "last_error": "ConnectionError: database away",
    }  # fmt: skip
    assert assigner.refresh()
    assert (assigner.state.stale, assigner.state.age_s, assigner.state.last_error) == (False, 0.0, None)
    now[0] += 31
    assert not assigner.refresh()
    assert (assigner.state.stale, assigner.state.age_s) == (True, 31.0)
    assert not assigner.refresh(), "one config that cannot be served: nothing of the load is taken"
    assert assigner.assign("u1", "ranking").config_version == 1
    assert assigner.refresh()
    assert assigner.assign("u1", "ranking").reason is Reason.UNKNOWN_EXPERIMENT
    assert not assigner.state.stale


def test_an_exposure_is_logged_where_it_is_used_and_only_there(config: ExperimentConfig) -> None:
    sent: list[EventRow] = []
    logger = ExposureLogger(sent.append)
    assigner = Assigner(lambda: [PublishedExperiment(config, 1)], logger)
    assigner.refresh()
    assignments = [assigner.assign(f"u{i}", "ranking") for i in range(5)]
    assert assigner.expose(assignments[3])
    assert not assigner.expose(assignments[3])
    assert not assigner.expose(assigner.assign(None, "ranking"))
    assert not assigner.expose(assigner.assign("u1", "unknown"))
    logger.close()
    assert [(row.unit_id, row.arm) for row in sent] == [("u3", assignments[3].arm)]


def test_what_the_assigner_logs_the_store_accepts(store: ExperimentStore, config: ExperimentConfig) -> None:
    """From the assignment to `first_exposure`, without a broker in between."""
    store.create_experiment("ranking", actor="ada")
    store.publish(config, actor="ada")
    store.transition("ranking", "running", actor="ada", reason="test")
    rows: list[EventRow] = []
    logger = ExposureLogger(rows.append)
    assigner = Assigner(store.load, logger)
    assigner.refresh()
    for i in range(100):
        assigner.expose(assigner.assign(f"u{i}", "ranking"))
    logger.close()
    result = store.write_events(rows)
    assert (result.written, result.rejected) == (100, ())


def test_without_a_logger_nothing_is_exposed(config: ExperimentConfig) -> None:
    assigner = Assigner(lambda: [PublishedExperiment(config, 1)])
    assigner.refresh()
    assert not assigner.expose(assigner.assign("u1", "ranking"))


def test_all_experiments_are_decided_with_the_attributes_of_the_unit(config: ExperimentConfig) -> None:
    targeted = msgspec.structs.replace(config, key="local", salt="local-1", targeting='country == "DE"')
    assigner = Assigner(lambda: [PublishedExperiment(config, 1), PublishedExperiment(targeted, 1)])
    assigner.refresh()
    reasons = {key: assignment.reason for key, assignment in assigner.assign_all("u", {"country": "FR"}).items()}
    assert reasons == {"ranking": Reason.ASSIGNED, "local": Reason.NOT_TARGETED}
    assert assigner.assign("u", "local", {"country": "DE"}).enrolled
    prepared = assigner.prepared("local")
    assert prepared is not None
    assert prepared.explain("u")[0].reason is Reason.ATTRIBUTE_MISSING
    assert assigner.prepared("unknown") is None


def test_a_load_in_which_prerequisites_form_a_cycle_is_not_taken(config: ExperimentConfig) -> None:
    loads = [[PublishedExperiment(config, 1)]]
    assigner = Assigner(lambda: loads[-1])
    assert assigner.refresh()
    other = msgspec.structs.replace(config, key="b", salt="b", prerequisites=(Prerequisite("ranking", ("control",)),))
    back = msgspec.structs.replace(config, prerequisites=(Prerequisite("b", ("control",)),))
    loads.append([PublishedExperiment(back, 2), PublishedExperiment(other, 1)])
    assert not assigner.refresh()
    assert "form a cycle" in (assigner.state.last_error or "")
    assert assigner.assign("u", "ranking").config_version == 1


def test_a_service_starts_from_the_file_while_the_store_is_unreachable(
    tmp_path: Path, config: ExperimentConfig
) -> None:
    cache, now = tmp_path / "configs.json", [1_000_000_000]
    first = Assigner(lambda: [published(config)], cache=cache, clock=lambda: now[0])
    assert first.refresh()

    def away() -> list[PublishedExperiment]:
        raise ConnectionError("database away")

    now[0] += 90_000_000
    second = Assigner(away, cache=cache, clock=lambda: now[0])
    assert second.start(timeout_s=0)
    try:
        assert second.assign("u", "ranking").reason is Reason.ASSIGNED
        assert second.assign("tester", "ranking").reason is Reason.OVERRIDE
        wait_until(lambda: second.state.last_error is not None)
        state = second.state
        assert (state.source, state.stale, state.experiments) == ("disk", True, 1)
        assert 90 <= (state.age_s or 0) < 120
        assert state.last_error == "ConnectionError: database away"
    finally:
        second.close()


@pytest.mark.parametrize("content", ["{", '{"schema": 2}'])
def test_an_unusable_file_is_logged_and_replaced(tmp_path: Path, config: ExperimentConfig, content: str) -> None:
    cache = tmp_path / "configs.json"
    cache.write_text(content)
    opened = threading.Event()

    def load() -> list[PublishedExperiment]:
        assert opened.wait(20)
        return [published(config)]

    assigner = Assigner(load, cache=cache)
    try:
        assert not assigner.start(timeout_s=0)
        assert str(cache) in (assigner.state.last_error or "")
        assert assigner.assign("u", "ranking").reason is Reason.UNKNOWN_EXPERIMENT
        opened.set()
        wait_until(lambda: assigner.state.source == "store")
        wait_until(lambda: cache.read_text() != content)
        assert read_configs(cache)[0] == [published(config)]
    finally:
        opened.set()
        assigner.close()


def test_the_first_load_waits_no_longer_than_its_deadline(config: ExperimentConfig) -> None:
    opened = threading.Event()

    def load() -> list[PublishedExperiment]:
        opened.wait(20)
        return [published(config)]

    assigner = Assigner(load)
    assert not assigner.start(timeout_s=0.1)
    opened.set()
    assert assigner.start(timeout_s=20), "a second start waits for the same load"
    assigner.close()


def test_configs_are_polled_and_a_push_loads_at_once(config: ExperimentConfig) -> None:
    versions = [1]
    pushed = Assigner(lambda: [published(config, versions[0])], interval_s=3_600)
    polled = Assigner(lambda: [published(config, versions[0])], interval_s=0.01)
    try:
        assert pushed.start()
        assert polled.start()
        versions[0] = 2
        pushed.wake()
        for assigner in (pushed, polled):
            wait_until(lambda assigner=assigner: assigner.assign("u", "ranking").config_version == 2)  # type: ignore[misc]
    finally:
        pushed.close()
        polled.close()


def test_close_ends_the_thread_and_assignments_go_on(config: ExperimentConfig) -> None:
    loads: list[int] = []

    def load() -> list[PublishedExperiment]:
        loads.append(1)
        return [published(config)]

    threads = Threads()
    assigner = Assigner(load, interval_s=0.001)
    assigner.start()
    assigner.close()
    wait_until(threads.have_ended)
    assert assigner.assign("u", "ranking").enrolled
    assigner.wake()
    assigner.close()


def test_a_cache_that_cannot_be_written_stops_no_refresh(tmp_path: Path, config: ExperimentConfig) -> None:
    (tmp_path / "file").write_text("")
    assigner = Assigner(lambda: [published(config)], cache=tmp_path / "file" / "configs.json")
    assert assigner.refresh()
    assert assigner.assign("u", "ranking").enrolled
    assert "Error" in (assigner.state.last_error or "")

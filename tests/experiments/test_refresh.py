"""The file of the last good configs, and the thread that keeps them fresh."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from experiments.assigner import Assigner
from experiments.assignment import Reason
from experiments.config import ExperimentConfig, Override, PublishedExperiment
from experiments.errors import ConfigError
from experiments.refresh import Refresher, read_configs, save_configs
from tests.experiments.test_config import configs


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        threading.Event().wait(0.005)


def published(config: ExperimentConfig, version: int = 1) -> PublishedExperiment:
    return PublishedExperiment(config, version, "running", (Override("tester", "treatment", 2**60),))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(configs())
def test_configs_survive_the_file(tmp_path: Path, config: ExperimentConfig) -> None:
    kept = [PublishedExperiment(config, 3, "paused", (Override("u", config.control, 5),))]
    save_configs(tmp_path / "configs.json", kept, 17)
    assert read_configs(tmp_path / "configs.json") == (kept, 17)


def test_only_its_owner_reads_the_file_and_nothing_is_left_beside_it(tmp_path: Path, config: ExperimentConfig) -> None:
    path = tmp_path / "new" / "configs.json"
    for version in (1, 2):
        save_configs(path, [published(config, version)], 1)
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(path.parent.iterdir()) == [path]
    assert read_configs(path)[0][0].version == 2


def test_a_file_of_a_newer_schema_or_a_damaged_one_is_refused(tmp_path: Path, config: ExperimentConfig) -> None:
    path = tmp_path / "configs.json"
    save_configs(path, [published(config)], 1)
    text = path.read_text()
    for changed, message in (
        (text.replace('"schema":1', '"schema":2', 1), "has schema 2, and this program reads 1"),
        (text.replace("ranking-1", "ranking-2"), "is damaged"),
        (text[:-9], "is not a file of configs"),
        ("", "is not a file of configs"),
    ):
        assert changed != text
        path.write_text(changed)
        with pytest.raises(ConfigError, match=message):
            read_configs(path)


def test_a_service_starts_from_the_file_while_the_store_is_away(tmp_path: Path, config: ExperimentConfig) -> None:
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
def test_a_file_that_cannot_be_used_is_told_and_replaced(
    tmp_path: Path, config: ExperimentConfig, content: str
) -> None:
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


def test_the_first_load_waits_no_longer_than_it_was_told(config: ExperimentConfig) -> None:
    opened = threading.Event()

    def load() -> list[PublishedExperiment]:
        opened.wait(20)
        return [published(config)]

    assigner = Assigner(load)
    began = time.monotonic()
    assert not assigner.start(timeout_s=0.1)
    assert time.monotonic() - began < 5
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

    assigner = Assigner(load, interval_s=0.001)
    assigner.start()
    assert assigner._refresher is not None
    thread = assigner._refresher._thread
    assigner.close()
    assert not thread.is_alive()
    assert assigner.assign("u", "ranking").enrolled
    assigner.wake()
    assigner.close()


def test_what_is_published_during_a_load_is_loaded_next() -> None:
    """A wake while a load runs is not lost."""
    entered, opened, loads = threading.Event(), threading.Event(), []

    def refresh() -> bool:
        loads.append(1)
        entered.set()
        return opened.wait(20)

    refresher = Refresher(refresh, 3_600)
    assert entered.wait(20)
    refresher.wake()
    opened.set()
    wait_until(lambda: len(loads) == 2)
    refresher.close(5)


def test_a_cache_that_cannot_be_written_stops_no_refresh(tmp_path: Path, config: ExperimentConfig) -> None:
    (tmp_path / "file").write_text("")
    assigner = Assigner(lambda: [published(config)], cache=tmp_path / "file" / "configs.json")
    assert assigner.refresh()
    assert assigner.assign("u", "ranking").enrolled
    assert "Error" in (assigner.state.last_error or "")


def test_the_file_is_json_that_a_person_can_read(tmp_path: Path, config: ExperimentConfig) -> None:
    save_configs(tmp_path / "c.json", [published(config)], 5)
    assert json.loads((tmp_path / "c.json").read_text())["experiments"][0]["config"]["key"] == "ranking"

"""`sagelift stream status`: the answers of consumers become rows, and every problem is listed."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.exposition import generate_latest
from rich.console import Console
from typer.testing import CliRunner

from sagelift.commands.cli import app
from sagelift.observability import stream_status
from sagelift.observability.health import HealthState
from sagelift.observability.metrics import LiveValues, WorkerMetrics
from sagelift.observability.monitor import Monitor
from sagelift.observability.scrape import parse
from sagelift.observability.server import serving
from sagelift.observability.stream_status import Observation, StreamStatus, TopicRow, collect, summarize
from sagelift.observability.stream_table import render
from sagelift.settings import load_settings
from sagelift.stack.worker_records import WorkerRecord, announced, folder_of, write_record

LAGS = [TopicRow(topic="catalog.updates", group="sagelift-catalog", lag=5)]
READY = {"ok": True, "state": "running", "reason": "", "partitions": [0, 1, 2, 5]}


class Consumer:
    """Counts like a consumer; `seen` is an observation of it."""

    def __init__(self) -> None:
        self.metrics = WorkerMetrics(
            "catalog", "1", lambda: LiveValues(HealthState.RUNNING, 4, {0: 3, 5: 2}, 7, 0.0, 1.0)
        )

    def seen(self, at: float, readiness: dict[str, Any] | None = None) -> Observation:
        samples = parse(generate_latest(self.metrics.registry).decode())
        return Observation(
            name="catalog", where="http://h:1", at=at, readiness=readiness or READY, samples=samples, pid=7
        )


def shown(found: StreamStatus) -> str:
    out = io.StringIO()
    Console(file=out, width=220, color_system=None).print(render(found))
    return out.getvalue()


def test_rates_and_percentiles_cover_the_time_between_two_observations() -> None:
    consumer = Consumer()
    consumer.metrics.finished(1000, 1)
    consumer.metrics.fresh([60_000.0] * 1000)
    before = consumer.seen(10.0)
    consumer.metrics.finished(500, 1)
    consumer.metrics.fresh([90.0] * 500)
    (row,) = summarize(LAGS, [before], [consumer.seen(12.0)]).workers
    assert row.records_per_s == 250
    assert row.freshness_p99_s is not None
    assert row.freshness_p99_s <= 0.1, "the slow thousand came before"
    assert (row.lag, row.in_flight, row.records_per_batch) == (5, 7, 750)


def test_percentiles_of_a_quiet_time_cover_all_the_time_before() -> None:
    consumer = Consumer()
    consumer.metrics.fresh([400.0] * 10)
    (row,) = summarize(LAGS, [consumer.seen(10.0)], [consumer.seen(12.0)]).workers
    assert row.records_per_s == 0
    assert row.freshness_p50_s == pytest.approx(0.4)


def test_a_consumer_seen_for_the_first_time_has_no_rate() -> None:
    consumer = Consumer()
    consumer.metrics.finished(10, 0)
    (row,) = summarize(LAGS, [], [consumer.seen(1.0)]).workers
    assert row.records_per_s is None


def test_ready_consumers_are_healthy_and_the_table_shows_them() -> None:
    consumer = Consumer()
    consumer.metrics.stage_failed("embeddings", ConnectionError())
    consumer.metrics.dead_letters({"decode": 2, "image": 9})
    summary = summarize(LAGS, [], [consumer.seen(1.0)])
    assert summary.healthy
    text = shown(summary)
    assert "catalog   7    running  0-2 5" in text
    assert "embeddings ConnectionError 1" in text
    assert "image 9, decode 2" in text
    assert "group sagelift-catalog   lag 5" in text


def test_a_consumer_that_is_not_ready_is_a_problem_with_its_reason() -> None:
    not_ready = {**READY, "ok": False, "state": "backing_off", "reason": "Unavailable: Triton"}
    summary = summarize(LAGS, [], [Consumer().seen(1.0, not_ready)])
    assert summary.problems == ["catalog (7) is backing_off: Unavailable: Triton"]
    assert "! catalog (7) is backing_off: Unavailable: Triton" in shown(summary)


def test_a_broker_that_does_not_answer_is_a_problem_and_consumers_are_still_shown() -> None:
    summary = summarize([TopicRow(topic="events", group="g", problem="no broker")], [], [Consumer().seen(1.0)])
    assert summary.problems == ["events: no broker"]
    assert summary.workers[0].state == "running"


def test_no_consumer_at_all_is_a_problem() -> None:
    assert summarize(LAGS, [], []).problems[0].startswith("no consumer is known here")


def refuse(_: str) -> tuple[dict[str, Any], str]:
    raise ConnectionRefusedError("refused")


def test_a_dead_consumer_shows_its_last_record_and_is_not_asked(tmp_path: Path) -> None:
    for name, ended in (("catalog", ("poisoned", "a whole feed of garbage")), ("events", None)):
        record = WorkerRecord(name=name, pid=1, started_at=1.0, url="http://127.0.0.1:1", ended=ended)
        write_record(folder_of(tmp_path), record)

    def ask(_: str) -> tuple[dict[str, Any], str]:
        raise AssertionError("another process may have got its port")

    summary = summarize(LAGS, [], collect(load_settings(state_dir=tmp_path), [], ask))
    assert [row.state for row in summary.workers] == ["poisoned", "down"]
    assert summary.problems[0] == "catalog (1) is poisoned: a whole feed of garbage"
    assert "killed" in summary.problems[1]


def test_a_consumer_that_runs_but_does_not_answer_is_silent(tmp_path: Path) -> None:
    with announced(tmp_path, "catalog", "http://127.0.0.1:1", time.time()):
        summary = summarize(LAGS, [], collect(load_settings(state_dir=tmp_path), [], refuse))
    assert [(row.state, row.pid) for row in summary.workers] == [("silent", os.getpid())]
    assert not summary.healthy


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Monitor]:
    """A consumer that starts, and fixed lags instead of a broker."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAGELIFT_STATE_DIR", str(tmp_path))
    monkeypatch.setattr(stream_status, "ask_broker", lambda _: LAGS)
    monitor = Monitor("catalog")
    with (
        serving("127.0.0.1", 0, monitor.metrics.registry, monitor.health, monitor.facts) as url,
        announced(tmp_path, "catalog", url, time.time()),
    ):
        yield monitor


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["stream", "status", "--every", "0.2", *arguments])
    return done.exit_code, done.output


def test_the_command_asks_over_http_and_its_exit_code_says_whether_all_is_healthy(served: Monitor) -> None:
    served.metrics.finished(12, 0)
    code, out = run("--json")
    document = json.loads(out)
    assert (code, document["healthy"], document["workers"][0]["state"]) == (1, False, "starting")
    assert document["workers"][0]["records_per_batch"] == 12
    assert document["topics"][0]["lag"] == 5
    code, out = run("--once")
    assert code == 1
    assert "catalog" in out
    assert "is starting: it does not read yet" in out


def test_the_status_of_a_consumer_on_another_machine_comes_from_its_url(served: Monitor, tmp_path: Path) -> None:
    url = json.loads(next(folder_of(tmp_path).glob("*.json")).read_text())["url"]
    for path in folder_of(tmp_path).glob("*.json"):
        path.unlink()
    _, out = run("--json", "--url", url + "/")
    assert [row["name"] for row in json.loads(out)["workers"]] == ["catalog"]

"""A consumer process: it serves its health while it runs, and says in the state folder why it ended."""

from __future__ import annotations

import logging
import signal
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from sagelift.observability.monitor import Monitor
from sagelift.settings import Settings, load_settings
from sagelift.stack.worker_records import read_records
from sagelift.workers import WORKERS, run_worker
from streaming.errors import BrokerError, PoisonRateError


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Signal handlers and the root logger are those of before."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()
    previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in previous.items():
        signal.signal(number, handler)
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.parametrize(
    ("error", "state"),
    [(PoisonRateError("most messages cannot be used"), "poisoned"), (BrokerError("no broker answers"), "failed")],
)
def test_a_consumer_that_fails_leaves_its_reason_in_the_state_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, state: str
) -> None:
    def fail(settings: Settings, stop: threading.Event, monitor: Monitor) -> None:
        raise error

    monkeypatch.setitem(WORKERS, "events", fail)
    with pytest.raises(type(error)):
        run_worker("events", load_settings(state_dir=tmp_path))
    (record,) = read_records(tmp_path)
    assert record.ended == (state, str(error))


def test_a_consumer_serves_its_metrics_until_a_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pages: list[str] = []

    def run(settings: Settings, stop: threading.Event, monitor: Monitor) -> None:
        (record,) = read_records(tmp_path)
        with urllib.request.urlopen(f"{record.url}/metrics") as answer:
            pages.append(answer.read().decode())
        signal.raise_signal(signal.SIGTERM)
        assert stop.wait(10)

    monkeypatch.setitem(WORKERS, "catalog", run)
    run_worker("catalog", load_settings(state_dir=tmp_path))
    assert 'consumer="catalog"' in pages[0]

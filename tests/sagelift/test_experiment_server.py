"""The server of experiments as a process: assignments, exposures, keys and erasures from other processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import create_engine, text

from sagelift import experiment_server
from sagelift.services import Services
from sagelift.settings import load_settings
from tests.sagelift.commands.experiment.commands import WHO, run, write


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("SAGELIFT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SAGELIFT_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Server:
    """A server process on a free port.

    Attributes:
        client: HTTP client with the server's address.
        returncode: Exit code, after the server has ended.
        log: What it wrote to stderr after its address.
    """

    def __init__(self, exposures: str) -> None:
        command = [sys.executable, "-m", "sagelift", "serve", "experiments", "--port", "0", "--exposures", exposures]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ.copy())
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        assert line.startswith("experiments on http://127.0.0.1:"), line
        self.client = httpx.Client(base_url=line.split()[2], timeout=20)
        self.log = ""

    def end(self) -> None:
        self.client.close()
        self.process.send_signal(signal.SIGTERM)
        self.log = self.process.communicate(timeout=60)[1]


@contextmanager
def serving(exposures: str = "off") -> Iterator[Server]:
    server = Server(exposures)
    try:
        yield server
    finally:
        server.end()


def wait_for(condition: Callable[[], Any]) -> Any:
    """The first true result of the condition. A server that does not listen yet is waited for."""
    deadline = time.monotonic() + 20
    while True:
        try:
            if result := condition():
                return result
        except httpx.ConnectError:
            pass
        assert time.monotonic() < deadline, "not true in time"


def test_the_interface_is_served_on_loopback_and_ends_with_a_signal(state: Path) -> None:
    """Assignments, an exposure into the database, a key without a right, a clean end."""
    run("publish", write(state / "e.yaml", coverage=10_000), *WHO)
    run("start", "ranking", *WHO)
    key = run("key", "create", "shop", "--role", "assign", "--actor", "ada").stdout.strip()
    with serving("database") as server:
        client = server.client
        client.headers["X-API-Key"] = key
        assert wait_for(lambda: client.get("/ready").json()["ready"]) is True
        arm = client.post("/v1/assignments/ranking", json={"unit": "u"}).json()["arm"]
        sent = {"exposures": [{"unit": "u", "experiment": "ranking", "arm": arm}]}
        assert client.post("/v1/exposures", json=sent).json()["exposures"][0]["logged"] is True
        assert client.get("/v1/experiments").status_code == 403
    assert "Traceback" not in server.log
    assert server.process.returncode == 0
    engine = create_engine(f"sqlite:///{state / 'state' / 'experiments.db'}")
    with engine.connect() as connection:
        exposures = connection.execute(text("select unit_id, arm from first_exposure")).all()
    engine.dispose()
    assert exposures == [("u", arm)]


def test_a_server_hears_of_keys_and_erasures_by_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key made while it serves is valid; the token of a user who is erased elsewhere is forgotten."""
    monkeypatch.setenv("SAGELIFT_EXPERIMENTS__TOKEN_KEY", "0f" * 32)
    with serving() as server:
        client = server.client
        client.headers["X-API-Key"] = run("key", "create", "shop", "--role", "assign", "--actor", "ada").stdout.strip()

        def unit() -> str | None:
            answer = client.post("/v1/units/token", json={"users": ["ann"]})
            return answer.json()["units"][0] if answer.status_code == 200 else None

        before = wait_for(unit)
        assert run("unit", "token", "ann").stdout.strip() == before
        assert run("unit", "erase", "ann", *WHO).exit_code == 0
        after = wait_for(lambda: (now := unit()) != before and now)
        assert run("unit", "token", "ann").stdout.strip() == after


def test_an_interrupted_server_still_sends_its_exposures(monkeypatch: pytest.MonkeyPatch) -> None:
    class SlowLogger:
        def __init__(self, send: object) -> None:
            pass

        def close(self) -> int:
            return 3

    def say(message: str) -> None:
        said.append(message)
        if "http://" in message:
            raise KeyboardInterrupt

    said: list[str] = []
    monkeypatch.setattr(experiment_server, "ExposureLogger", SlowLogger)
    with Services(load_settings()) as services, pytest.raises(KeyboardInterrupt):
        experiment_server.serve_experiments(services, "127.0.0.1", 0, exposures="database", rate=1, say=say)
    assert said[1:] == ["3 exposures could not be sent"]

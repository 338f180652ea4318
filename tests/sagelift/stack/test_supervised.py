"""A watched server is restarted after a failure, and given up after too many."""

import threading
from pathlib import Path

import pytest

from sagelift.stack.errors import StartError
from sagelift.stack.supervised import RestartPolicy, Supervised
from tests.waiting import wait_until

QUICK = RestartPolicy(first_pause_s=0.001, longest_pause_s=0.002)


@pytest.mark.parametrize(
    ("failures", "pause"),
    [
        pytest.param([100.0], 1.0, id="first"),
        pytest.param([98.0, 100.0], 2.0, id="doubles"),
        pytest.param([97.0, 98.0, 99.0, 100.0], 5.0, id="capped"),
        pytest.param([96.0, 97.0, 98.0, 99.0, 100.0], None, id="fifth within the window"),
        pytest.param([1.0, 2.0, 3.0, 39.0, 100.0], 1.0, id="old ones do not count"),
    ],
)
def test_the_pause_doubles_is_capped_and_ends_after_five_in_a_minute(
    failures: list[float], pause: float | None
) -> None:
    policy = RestartPolicy(first_pause_s=1.0, longest_pause_s=5.0, max_failures=5, window_s=60.0)
    assert policy.pause(failures, now=100.0) == pause


class FakeServer:
    """Dies and hangs on command; `revivals` are the results of the next starts (error, complaint or None)."""

    address = "127.0.0.1:1"
    log = Path("server.log")
    pid = 1
    exit_code = 9
    fatal_reason: str | None = None

    def __init__(self) -> None:
        self.alive = False
        self.answers = True
        self.revivals: list[Exception | str | None] = []
        self.kills = 0

    def start(self, cancelled: threading.Event | None = None) -> None:
        self.alive = True

    def revive(self, cancelled: threading.Event) -> str | None:
        result = self.revivals.pop(0) if self.revivals else None
        if isinstance(result, Exception):
            raise result
        self.alive = self.answers = True
        return result

    def stop(self) -> None:
        self.alive = False

    def kill(self) -> None:
        self.kills += 1
        self.alive = False

    def healthy(self) -> bool:
        if not self.answers:
            raise ConnectionError("a probe may raise")
        return True


def watch(server: FakeServer, policy: RestartPolicy = QUICK) -> tuple[Supervised, list[str]]:
    said: list[str] = []
    watched = Supervised(
        "Server",
        server,
        say=said.append,
        changed=lambda: None,
        policy=policy,
        check_every_s=0.002,
        probe_every_s=0.002,
    )
    watched.start()
    assert watched.status.state == "ready"
    return watched, said


def test_a_server_that_died_is_restarted_and_reported() -> None:
    server = FakeServer()
    watched, said = watch(server)
    server.alive = False
    wait_until(lambda: watched.status.restarts == 1)
    watched.stop()
    assert watched.status.last_error == "ended with exit code 9"
    assert any("Server ended with exit code 9; restarting" in line for line in said)
    assert any("Server is ready again" in line for line in said)


def test_a_server_that_does_not_answer_is_killed_before_its_restart() -> None:
    server = FakeServer()
    watched, _ = watch(server)
    server.answers = False
    wait_until(lambda: watched.status.restarts == 1)
    watched.stop()
    assert server.kills == 1
    assert watched.status.last_error == "does not answer correctly"


def test_a_failed_restart_is_retried() -> None:
    server = FakeServer()
    server.revivals = [StartError("port taken"), ValueError("anything")]
    watched, said = watch(server)
    server.alive = False
    wait_until(lambda: watched.status.restarts == 1)
    watched.stop()
    assert any("could not be restarted: port taken" in line for line in said)


def test_after_too_many_failures_the_server_stays_down() -> None:
    server = FakeServer()
    server.revivals = [StartError("disk full")] * 10
    watched, said = watch(server)
    server.alive = False
    wait_until(lambda: watched.status.state == "failed")
    watched.stop()
    assert len(server.revivals) == 10 - 4  # five failures: the death and four starts
    assert watched.status.last_error == "could not be restarted: disk full"
    assert "gave up after 5 failures within 60 s" in said[-1]


def test_a_server_with_a_fatal_reason_is_not_restarted() -> None:
    server = FakeServer()
    server.fatal_reason = "poisoned: a whole feed of garbage"
    watched, said = watch(server)
    server.alive = False
    wait_until(lambda: watched.status.state == "failed")
    watched.stop()
    assert watched.status.last_error == "poisoned: a whole feed of garbage"
    assert watched.status.restarts == 0
    assert said[-1].startswith("Server stopped and is not restarted: poisoned: a whole feed of garbage (log: ")


def test_a_later_address_enters_the_status() -> None:
    server = FakeServer()
    watched, _ = watch(server)
    server.address = "127.0.0.1:2"
    wait_until(lambda: watched.status.address == "127.0.0.1:2")
    watched.stop()
    assert watched.status.state == "ready"


def test_a_server_that_runs_with_a_complaint_is_ready_and_reports_it() -> None:
    server = FakeServer()
    server.revivals = ["model broken could not be loaded"]
    watched, said = watch(server)
    server.alive = False
    wait_until(lambda: watched.status.restarts == 1)
    watched.stop()
    assert watched.status.state == "ready"
    assert watched.status.last_error == "model broken could not be loaded"
    assert said[-1].endswith("model broken could not be loaded")


def test_stopping_ends_a_long_pause_at_once() -> None:
    server = FakeServer()
    watched, _ = watch(server, RestartPolicy(first_pause_s=600, longest_pause_s=600))
    server.alive = False
    wait_until(lambda: watched.status.state == "restarting")
    stopping = threading.Thread(target=watched.stop, daemon=True)
    stopping.start()
    stopping.join(30)
    assert not stopping.is_alive(), "the pause is 600 s"

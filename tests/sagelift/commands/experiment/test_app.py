"""The commands of experiments: files, the steps, the schedule, keys, the schema; and the served interface."""

import json
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
import typer
import yaml
from typer.testing import CliRunner, Result

from experiments.tables import REVISION
from sagelift.commands.experiment.app import app

CONFIG: dict[str, Any] = {
    "key": "ranking",
    "salt": "ranking-1",
    "coverage": 100,
    "control": "control",
    "arms": [{"key": "control", "weight": 5_000}, {"key": "treatment", "weight": 5_000}],
}
WHO = ("--actor", "ada", "--reason", "test")


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAGELIFT_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("SAGELIFT_EXPERIMENTS__DATABASE_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def told(*arguments: object) -> Any:
    done = run(*arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def write(path: Path, **changes: Any) -> Path:
    path.write_text(yaml.safe_dump(CONFIG | changes), encoding="utf-8")
    return path


def test_a_life_by_commands(state: Path) -> None:
    file = write(state / "e.yaml")
    assert run("diff", file).exit_code == 1
    assert run("publish", file, *WHO).stdout == "ranking version 1\n"
    assert run("diff", file).exit_code == 0
    for step in ("submit", "revise", "start", "pause", "start"):
        assert run(step, "ranking", *WHO).exit_code == 0, step
    assert run("ramp", "ranking", 500, *WHO).stdout == "ranking version 2, coverage 500\n"
    assert run("hold", "ranking", *WHO).exit_code == 0
    assert [(row["key"], row["state"], row["version"]) for row in told("list")] == [("ranking", "running", 2)]
    assert run("stop", "ranking", *WHO).exit_code == 0
    assert run("decide", "ranking", "ship", *WHO).exit_code == 0
    assert run("archive", "ranking", *WHO).exit_code == 0
    assert [row["state"] for row in told("history", "ranking")][-3:] == ["stopped", "decided", "archived"]
    assert {row["actor"] for row in told("audit", "--subject", "ranking")} == {"ada"}
    assert run("decide", "ranking", "win", *WHO).exit_code == 2


def test_a_draft_is_listed_and_what_was_ramped_is_shown_as_its_file_should_be(state: Path) -> None:
    file = write(state / "e.yaml")
    run("publish", file, *WHO)
    assert [(row["state"], row["version"], row["arms"]) for row in told("list")] == [("draft", None, [])]
    assert "draft" in run("list").stdout
    run("start", "ranking", *WHO)
    assert run("list").stdout.endswith("version 1  arms control, treatment\n")
    run("ramp", "ranking", 500, *WHO)
    assert run("diff", file).exit_code == 1
    file.write_text(run("show", "ranking").stdout, encoding="utf-8")
    assert run("diff", file).exit_code == 0
    assert yaml.safe_load(file.read_text("utf-8"))["coverage"] == 500
    assert yaml.safe_load(run("show", "ranking", "--version", 1).stdout)["coverage"] == 100
    assert told("show", "ranking")["version"] == 2
    assert run("show", "ranking", "--version", 3).exit_code == 1


def test_an_arm_is_forced_upon_a_tester_until_a_time(state: Path) -> None:
    from sagelift.commands.experiment.assign import assign

    run("publish", write(state / "e.yaml"), *WHO)
    run("start", "ranking", *WHO)
    cli = typer.Typer()
    cli.command()(assign)

    def arm() -> Any:
        done = CliRunner().invoke(cli, ["tester", "--experiment", "ranking", "--json"])
        return json.loads(done.stdout)["reason"]

    assert arm() == "outside_coverage"
    done = run("override", "ranking", "tester", "treatment", "--until", "2999-01-01T00:00Z", *WHO)
    assert done.stdout == "ranking serves treatment until 2999-01-01T00:00:00+00:00\n"
    assert arm() == "override"
    assert "tester" not in json.dumps([told("audit"), told("history", "ranking"), told("show", "ranking")])
    assert run("clear-override", "ranking", "tester", *WHO).stdout == "cleared\n"
    assert run("clear-override", "ranking", "tester", *WHO).stdout == "no arm was forced\n"
    assert arm() == "outside_coverage"
    for until, code in (("2001-01-01T00:00Z", 1), ("soon", 2)):
        assert run("override", "ranking", "tester", "treatment", "--until", until, *WHO).exit_code == code


def test_diff_names_the_command_that_takes_each_edit(state: Path) -> None:
    file = write(state / "e.yaml")
    run("publish", file, *WHO)
    run("start", "ranking", *WHO)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"coverage": 200}, "publish"),
        ({"description": "again"}, "publish"),
        ({"coverage": 50}, "new-phase"),
        ({"salt": "ranking-2"}, "new-phase"),
    ]
    for changes, command in cases:
        write(file, **changes)
        done = run("diff", file, "--json")
        assert done.exit_code == 1
        (row,) = json.loads(done.stdout)
        assert row["command"] == command
        assert [change["field"] for change in row["changes"]] == list(changes)
    assert run("publish", file, *WHO).exit_code == 1  # an unsafe edit, raised for `main` to print
    assert run("new-phase", file, *WHO).stdout == "ranking version 2, a new phase\n"
    assert run("diff", file).exit_code == 0


def test_validate_lists_the_faults_of_a_folder(state: Path) -> None:
    (state / "all").mkdir()
    write(state / "all" / "a.yaml")
    assert run("validate", state / "all").exit_code == 0
    write(state / "all" / "b.yaml", key="two")
    write(state / "all" / "c.yaml", coverage=-1)
    done = run("validate", state / "all", "--json")
    assert done.exit_code == 1
    faults = json.loads(done.stdout)["faults"]
    assert [Path(fault["file"]).name for fault in faults] == ["c.yaml", "b.yaml"]


def test_a_tick_runs_what_is_due_and_says_what_could_not_be_done(state: Path) -> None:
    run("publish", write(state / "e.yaml"), *WHO)
    run("start", "ranking", *WHO)
    soon = time.time() + 3  # the commands below take their time on a busy machine
    at = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(soon))}.{int(soon % 1 * 1e6):06d}Z"
    for action, more in (("ramp", ("--coverage", 700)), ("ramp", ("--coverage", 600)), ("pause", ())):
        assert run("schedule", "ranking", action, "--at", at, *more, *WHO).exit_code == 0
    far = run("schedule", "ranking", "stop", "--at", "2999-01-01T00:00Z", *WHO)
    assert run("cancel", far.stdout.split(":")[0], *WHO).exit_code == 0
    deadline = time.monotonic() + 20
    while not (ran := json.loads((done := run("tick", "--json")).stdout)["ran"]):
        assert time.monotonic() < deadline
    assert done.exit_code == 1
    assert [(each["command"]["action"], each["error"] is None) for each in ran] == [
        ("ramp", True), ("ramp", False), ("pause", True),
    ]  # fmt: skip
    assert [row["result"] for row in told("schedule", "ranking")] == ["done", "failed", "done", "cancelled"]
    for wrong in ("soon", "2999-01-01T00:00"):
        refused = run("schedule", "ranking", "stop", "--at", wrong, *WHO)
        assert refused.exit_code == 2


def test_guard_judges_what_runs(state: Path) -> None:
    run("publish", write(state / "e.yaml", metrics=[{"key": "clicks_per_user", "role": "guardrail"}]), *WHO)
    run("start", "ranking", *WHO)
    assert told("guard", "ranking") == []  # nobody was exposed yet
    assert run("guard", "none").exit_code == 1
    assert run("guard", "ranking", "--on-breach", "explode").exit_code == 2


def test_a_key_is_shown_once(state: Path) -> None:
    made = run("key", "create", "shop", "--role", "read", "--actor", "ada")
    shown = made.stdout.strip()
    assert shown.startswith("sl_")
    (row,) = told("key", "list")
    assert (row["name"], row["role"], row["revoked_at"]) == ("shop", "read", None)
    assert shown.split("_", 2)[2] not in json.dumps(told("key", "list")) + json.dumps(told("audit"))
    assert run("key", "revoke", row["id"], "--actor", "ada").exit_code == 0
    assert told("key", "list")[0]["revoked_at"] is not None


def test_a_database_behind_its_migrations_names_the_command_that_helps(state: Path) -> None:
    assert run("migrate").stdout == f"revision {REVISION}, was none\n"
    assert run("migrate").stdout == f"revision {REVISION}\n"
    assert run("migrate", "--revision", "0001").stdout == f"revision 0001, was {REVISION}\n"
    done = subprocess.run([sys.executable, "-m", "sagelift", "experiment", "list"], capture_output=True, text=True)
    assert done.returncode == 3
    assert f"revision 0001, this program needs {REVISION}: run `sagelift experiment migrate`" in done.stderr
    assert "Traceback" not in done.stderr
    assert run("migrate").stdout == f"revision {REVISION}, was 0001\n"
    assert run("list").exit_code == 0


def test_the_interface_is_served_on_loopback_and_ends_with_a_signal(state: Path) -> None:
    """As a process: assignments, an exposure into the database, a revoked key, a clean end."""
    run("publish", write(state / "e.yaml", coverage=10_000), *WHO)
    run("start", "ranking", *WHO)
    key = run("key", "create", "shop", "--role", "assign", "--actor", "ada").stdout.strip()
    served = subprocess.Popen(
        [sys.executable, "-m", "sagelift", "serve", "experiments", "--port", "0", "--exposures", "database"],
        stderr=subprocess.PIPE, text=True, env=os.environ.copy(),
    )  # fmt: skip
    try:
        assert served.stderr is not None
        line = served.stderr.readline()
        assert line.startswith("experiments on http://127.0.0.1:"), line + served.stderr.read()
        headers = {"X-API-Key": key}
        with httpx.Client(base_url=line.split()[2], headers=headers, timeout=20) as client:
            deadline = time.monotonic() + 20
            while True:
                try:
                    ready = client.get("/ready")
                    break
                except httpx.ConnectError:
                    assert time.monotonic() < deadline
            assert ready.json()["ready"] is True
            arm = client.post("/v1/assignments/ranking", json={"unit": "u"}).json()["arm"]
            sent = {"exposures": [{"unit": "u", "experiment": "ranking", "arm": arm}]}
            assert client.post("/v1/exposures", json=sent).json()["exposures"][0]["logged"] is True
            assert client.get("/v1/experiments").status_code == 403
    finally:
        served.send_signal(signal.SIGTERM)
        rest = served.communicate(timeout=60)[1]
    assert "Traceback" not in rest
    assert served.returncode in (0, -signal.SIGTERM)
    from sqlalchemy import create_engine, text

    engine = create_engine(f"sqlite:///{state / 'state' / 'experiments.db'}")
    with engine.connect() as connection:
        found = connection.execute(text("select unit_id, arm from first_exposure")).all()
    engine.dispose()
    assert found == [("u", arm)]


def test_a_server_hears_of_keys_and_erasures_by_commands(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key made while it serves is good; the token of a user who is erased elsewhere is let go of."""
    monkeypatch.setenv("SAGELIFT_EXPERIMENTS__TOKEN_KEY", "0f" * 32)
    with served() as client:
        client.headers["X-API-Key"] = run("key", "create", "shop", "--role", "assign", "--actor", "ada").stdout.strip()

        def unit() -> str | None:
            answer = client.post("/v1/units/token", json={"users": ["ann"]})
            return answer.json()["units"][0] if answer.status_code == 200 else None

        before = wait_for(unit)
        assert run("unit", "token", "ann").stdout.strip() == before
        assert run("unit", "erase", "ann", *WHO).exit_code == 0
        after = wait_for(lambda: (found := unit()) != before and found)
        assert run("unit", "token", "ann").stdout.strip() == after


@contextmanager
def served() -> Iterator[httpx.Client]:
    """A client of a server of our own, on a free port, until the block ends."""
    command = [sys.executable, "-m", "sagelift", "serve", "experiments", "--port", "0", "--exposures", "off"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ.copy())
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line.startswith("experiments on http://127.0.0.1:"), line
        with httpx.Client(base_url=line.split()[2], timeout=20) as client:
            yield client
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def wait_for(found: Callable[[], Any]) -> Any:
    """What is found in the end; a server that does not listen yet is waited for."""
    deadline = time.monotonic() + 20
    while True:
        try:
            if result := found():
                return result
        except httpx.ConnectError:
            pass
        assert time.monotonic() < deadline, "not found in time"


def test_layers_and_metrics_by_commands(state: Path) -> None:
    config = write(state / "e.yaml", layer={"key": "home", "start": 0, "end": 2_000}, metrics=[
        {"key": "clicks", "role": "guardrail"},
    ])  # fmt: skip
    refused = run("publish", config, *WHO)
    assert "sagelift experiment layer create home" in str(refused.exception)
    assert run("layer", "create", "home", "--description", "the first page", *WHO).stdout == "layer home\n"
    metrics = state / "metrics.yaml"
    sound = {"name": "clicks", "owner": "ranking", "tier": 2, "kind": "count", "column": "clicks"}
    guardrail = {**sound, "role": "guardrail", "margin": 0.1}
    metrics.write_text(yaml.safe_dump({"metrics": [guardrail]}))
    assert run("metric", "publish", metrics, *WHO).stdout == "clicks version 1\n"
    assert [(row["key"], row["version"], row["owner"], row["tier"]) for row in told("metric", "list")] == [
        ("clicks", 1, "ranking", 2)
    ]
    assert run("publish", config, *WHO).exit_code == 0
    run("start", "ranking", *WHO)
    (layer,) = told("layer", "list")
    assert (layer["held"], layer["free"]) == ([{"experiment": "ranking", "start": 0, "end": 2_000}], [[2_000, 10_000]])
    assert "free [2000, 10000)  the first page" in run("layer", "list").stdout
    assert told("guard", "ranking") == []  # by the published metrics: a shop's own have no `clicks`
    metrics.write_text(yaml.safe_dump({"metrics": [{**sound, "colum": "clicks"}]}))
    assert "Did you mean 'column'?" in str(run("metric", "publish", metrics, *WHO).exception)
    assert told("metric", "list")[0]["version"] == 1

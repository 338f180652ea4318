"""`sagelift experiment schedule | tick | guard`: what a scheduler runs."""

from __future__ import annotations

import json
import time
from pathlib import Path

from tests.sagelift.commands.experiment.commands import WHO, output, run, write


def test_a_tick_runs_due_commands_and_reports_failures(state: Path) -> None:
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
    assert [row["result"] for row in output("schedule", "ranking")] == ["done", "failed", "done", "cancelled"]
    for wrong in ("soon", "2999-01-01T00:00"):
        refused = run("schedule", "ranking", "stop", "--at", wrong, *WHO)
        assert refused.exit_code == 2


def test_guard_judges_running_experiments(state: Path) -> None:
    run("publish", write(state / "e.yaml", metrics=[{"key": "clicks_per_user", "role": "guardrail"}]), *WHO)
    run("start", "ranking", *WHO)
    assert output("guard", "ranking") == []  # nobody was exposed yet
    assert run("guard", "none").exit_code == 1
    assert run("guard", "ranking", "--on-breach", "explode").exit_code == 2

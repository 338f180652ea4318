"""`sagelift experiment`: the steps from draft to archived, ramp, hold, overrides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer
from typer.testing import CliRunner

from tests.sagelift.commands.experiment.commands import WHO, output, run, write


def test_a_life_by_commands(state: Path) -> None:
    file = write(state / "e.yaml")
    assert run("diff", file).exit_code == 1
    assert run("publish", file, *WHO).stdout == "ranking version 1\n"
    assert run("diff", file).exit_code == 0
    for step in ("submit", "revise", "start", "pause", "start"):
        assert run(step, "ranking", *WHO).exit_code == 0, step
    assert run("ramp", "ranking", 500, *WHO).stdout == "ranking version 2, coverage 500\n"
    assert run("hold", "ranking", *WHO).exit_code == 0
    assert [(row["key"], row["state"], row["version"]) for row in output("list")] == [("ranking", "running", 2)]
    assert run("stop", "ranking", *WHO).exit_code == 0
    assert run("decide", "ranking", "ship", *WHO).exit_code == 0
    assert run("archive", "ranking", *WHO).exit_code == 0
    assert [row["state"] for row in output("history", "ranking")][-3:] == ["stopped", "decided", "archived"]
    assert {row["actor"] for row in output("audit", "--subject", "ranking")} == {"ada"}
    assert run("decide", "ranking", "win", *WHO).exit_code == 2


def test_a_tester_gets_a_fixed_arm_until_a_time(state: Path) -> None:
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
    assert "tester" not in json.dumps([output("audit"), output("history", "ranking"), output("show", "ranking")])
    assert run("clear-override", "ranking", "tester", *WHO).stdout == "cleared\n"
    assert run("clear-override", "ranking", "tester", *WHO).stdout == "the unit had no override\n"
    assert arm() == "outside_coverage"
    for until, code in (("2001-01-01T00:00Z", 1), ("soon", 2)):
        assert run("override", "ranking", "tester", "treatment", "--until", until, *WHO).exit_code == code

"""`sagelift experiment validate | diff`: faults of files, and the command that takes each edit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.sagelift.commands.experiment.commands import WHO, run, write


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

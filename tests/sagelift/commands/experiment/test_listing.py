"""`sagelift experiment list | show`: drafts, and what a ramp changed."""

from __future__ import annotations

from pathlib import Path

import yaml

from tests.sagelift.commands.experiment.commands import WHO, output, run, write


def test_a_draft_is_listed_and_a_ramped_experiment_is_shown_with_its_coverage(state: Path) -> None:
    file = write(state / "e.yaml")
    run("publish", file, *WHO)
    assert [(row["state"], row["version"], row["arms"]) for row in output("list")] == [("draft", None, [])]
    assert "draft" in run("list").stdout
    run("start", "ranking", *WHO)
    assert run("list").stdout.endswith("version 1  arms control, treatment\n")
    run("ramp", "ranking", 500, *WHO)
    assert run("diff", file).exit_code == 1
    file.write_text(run("show", "ranking").stdout, encoding="utf-8")
    assert run("diff", file).exit_code == 0
    assert yaml.safe_load(file.read_text("utf-8"))["coverage"] == 500
    assert yaml.safe_load(run("show", "ranking", "--version", 1).stdout)["coverage"] == 100
    assert output("show", "ranking")["version"] == 2
    assert run("show", "ranking", "--version", 3).exit_code == 1

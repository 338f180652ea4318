"""`sagelift experiment layer`: the ranges that experiments hold, and what is free."""

from __future__ import annotations

from pathlib import Path

from tests.sagelift.commands.experiment.commands import WHO, output, run, write


def test_a_layer_lists_the_ranges_that_experiments_hold(state: Path) -> None:
    config = write(state / "e.yaml", layer={"key": "home", "start": 0, "end": 2_000})
    refused = run("publish", config, *WHO)
    assert "sagelift experiment layer create home" in str(refused.exception)
    assert run("layer", "create", "home", "--description", "the first page", *WHO).stdout == "layer home\n"
    assert run("publish", config, *WHO).exit_code == 0
    run("start", "ranking", *WHO)
    (layer,) = output("layer", "list")
    assert (layer["held"], layer["free"]) == ([{"experiment": "ranking", "start": 0, "end": 2_000}], [[2_000, 10_000]])
    assert "free [2000, 10000)  the first page" in run("layer", "list").stdout

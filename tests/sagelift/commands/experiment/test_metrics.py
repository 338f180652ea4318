"""`sagelift experiment metric`: published as versions, used by guardrails, refused with a wrong field."""

from __future__ import annotations

from pathlib import Path

import yaml

from tests.sagelift.commands.experiment.commands import WHO, output, run, write


def test_published_metrics_are_listed_and_used_by_guardrails(state: Path) -> None:
    config = write(state / "e.yaml", metrics=[{"key": "clicks", "role": "guardrail"}])
    metrics = state / "metrics.yaml"
    sound = {"name": "clicks", "owner": "ranking", "tier": 2, "kind": "count", "column": "clicks"}
    guardrail = {**sound, "role": "guardrail", "margin": 0.1}
    metrics.write_text(yaml.safe_dump({"metrics": [guardrail]}))
    assert run("metric", "publish", metrics, *WHO).stdout == "clicks version 1\n"
    assert [(row["key"], row["version"], row["owner"], row["tier"]) for row in output("metric", "list")] == [
        ("clicks", 1, "ranking", 2)
    ]
    assert run("publish", config, *WHO).exit_code == 0
    run("start", "ranking", *WHO)
    assert output("guard", "ranking") == []  # by the published metrics: a shop's own have no `clicks`
    metrics.write_text(yaml.safe_dump({"metrics": [{**sound, "colum": "clicks"}]}))
    assert "Did you mean 'column'?" in str(run("metric", "publish", metrics, *WHO).exception)
    assert output("metric", "list")[0]["version"] == 1

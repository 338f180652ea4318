"""`sagelift experiment metric ...`: metrics that experiments share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sagelift.commands.console import AsJson, print_json
from sagelift.commands.experiment.options import Actor, Reason, experiment_store

app = typer.Typer(help="Metrics: reviewed as files, published as versions.", no_args_is_help=True)


@app.command()
def publish(
    file: Annotated[Path, typer.Argument(help="YAML file of metrics. Each has an owner and a tier.")],
    actor: Actor,
    reason: Reason = "",
) -> None:
    """Publish the metrics of a file, all or none. An unchanged metric keeps its version."""
    from analysis.config import load_metrics
    from experiments.metrics import from_yaml

    load_metrics(file)  # checks that each can be computed
    definitions = from_yaml(file.read_text(encoding="utf-8"), name=str(file))
    with experiment_store() as store:
        versions = store.publish_metrics(definitions, actor=actor, reason=reason)
    for key, version in versions.items():
        typer.echo(f"{key} version {version}")


@app.command("list")
def list_metrics(as_json: AsJson = False) -> None:
    """List the latest published version of each metric."""
    with experiment_store() as store:
        metrics = store.metrics()
    if as_json:
        return print_json(metrics)
    for metric in metrics:
        typer.echo(f"{metric.key:<32} version {metric.version}  tier {metric.tier}  {metric.owner}")

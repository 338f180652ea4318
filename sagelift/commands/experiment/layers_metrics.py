"""`sagelift experiment layer ...` and `sagelift experiment metric ...`: what experiments share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sagelift.commands.console import AsJson, print_json
from sagelift.commands.experiment.options import Actor, Reason, experiment_store

layer_app = typer.Typer(help="Layers: experiments that must not meet share one.", no_args_is_help=True)
metric_app = typer.Typer(help="Metrics: reviewed as files, frozen as versions.", no_args_is_help=True)


@layer_app.command("create")
def layer_create(
    key: Annotated[str, typer.Argument(help="The layer's key, as configs will name it.")],
    actor: Actor,
    description: Annotated[str, typer.Option(help="What meets in it, such as a page.")] = "",
    reason: Reason = "",
) -> None:
    """Make a layer, which experiments may name from then on."""
    with experiment_store() as store:
        store.create_layer(key, actor=actor, reason=reason, description=description)
    typer.echo(f"layer {key}")


@layer_app.command("list")
def layer_list(as_json: AsJson = False) -> None:
    """List the layers: which part is held by whom, and what is free."""
    with experiment_store() as store:
        layers = store.layers()
    if as_json:
        return print_json(layers)
    for layer in layers:
        free = ", ".join(f"[{start}, {end})" for start, end in layer.free) or "nothing"
        typer.echo(f"{layer.key:<32} free {free}  {layer.description}".rstrip())
        for part in layer.held:
            typer.echo(f"  [{part.start}, {part.end}) {part.experiment}")


@metric_app.command("publish")
def metric_publish(
    file: Annotated[Path, typer.Argument(help="Metrics as YAML, each with an owner and a tier.")],
    actor: Actor,
    reason: Reason = "",
) -> None:
    """Freeze the metrics of a file, all or none; one that is as before keeps its version."""
    from analysis.config import load_metrics
    from experiments.metrics import from_yaml

    load_metrics(file)  # that each can be computed
    definitions = from_yaml(file.read_text(encoding="utf-8"), name=str(file))
    with experiment_store() as store:
        versions = store.publish_metrics(definitions, actor=actor, reason=reason)
    for key, version in versions.items():
        typer.echo(f"{key} version {version}")


@metric_app.command("list")
def metric_list(as_json: AsJson = False) -> None:
    """List the metrics as they were published last."""
    with experiment_store() as store:
        metrics = store.metrics()
    if as_json:
        return print_json(metrics)
    for metric in metrics:
        typer.echo(f"{metric.key:<32} version {metric.version}  tier {metric.tier}  {metric.owner}")

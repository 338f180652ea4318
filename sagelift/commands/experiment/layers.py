"""`sagelift experiment layer ...`: layers of experiments that must not overlap."""

from __future__ import annotations

from typing import Annotated

import typer

from sagelift.commands.console import AsJson, print_json
from sagelift.commands.experiment.options import Actor, Reason, experiment_store

app = typer.Typer(help="Layers: experiments that must not overlap share one.", no_args_is_help=True)


@app.command()
def create(
    key: Annotated[str, typer.Argument(help="Key of the layer. Configs name it.")],
    actor: Actor,
    description: Annotated[str, typer.Option(help="What the experiments of the layer share, such as a page.")] = "",
    reason: Reason = "",
) -> None:
    """Create a layer. Experiments can name it from then on."""
    with experiment_store() as store:
        store.create_layer(key, actor=actor, reason=reason, description=description)
    typer.echo(f"layer {key}")


@app.command("list")
def list_layers(as_json: AsJson = False) -> None:
    """List the layers with the ranges that experiments hold and those that are free."""
    with experiment_store() as store:
        layers = store.layers()
    if as_json:
        return print_json(layers)
    for layer in layers:
        free = ", ".join(f"[{start}, {end})" for start, end in layer.free) or "nothing"
        typer.echo(f"{layer.key:<32} free {free}  {layer.description}".rstrip())
        for part in layer.held:
            typer.echo(f"  [{part.start}, {part.end}) {part.experiment}")

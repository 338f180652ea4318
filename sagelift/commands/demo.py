"""`sagelift demo`: the whole loop on real components."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sagelift.commands.console import AsJson, current_settings, print_json


def demo(
    catalog: Annotated[
        Path | None,
        typer.Option(help="A feed, or a folder with products.jsonl. Default: a generated catalogue."),
    ] = None,
    products: Annotated[int, typer.Option(min=20, help="Number of products of the generated catalogue.")] = 1000,
    shoppers: Annotated[int, typer.Option(min=200, help="Number of simulated shoppers.")] = 4000,
    seed: Annotated[int, typer.Option(min=0, help="Random seed.")] = 7,
    as_json: AsJson = False,
) -> None:
    """Run the whole loop on real components: catalogue, features, training, release, experiment, report."""
    from sagelift.demo.config import DemoConfig
    from sagelift.demo.demo import Demo

    config = DemoConfig(catalog=catalog, products=products, shoppers=shoppers, seed=seed)
    result, report = Demo(current_settings(), config).run()
    if as_json:
        return print_json(result)
    from rich.console import Console

    from analysis.render.terminal import to_terminal

    Console().print(to_terminal(report))
    freshness = result.freshness_ms
    typer.echo(f"\nReport: {result.report}")
    typer.echo(
        f"Kafka to retrievable: p50 {freshness.p50:.0f} ms, p99 {freshness.p99:.0f} ms over {freshness.count} updates"
    )
    typer.echo(f"Dead letters: {result.dead_letters}")
    typer.echo("Stages: " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in result.stages_s.items()))

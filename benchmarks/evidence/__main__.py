"""`python -m benchmarks.evidence`: train every variant and write the model card."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sagelift.commands.console import AsJson, current_settings, print_json, say

if TYPE_CHECKING:
    from benchmarks.evidence.variants import EvidenceConfig

_GENERATED = "generated"


def ablate(
    catalog: Annotated[
        list[str] | None,
        typer.Option(
            help="name=feed for each catalogue. Feeds of the same name form one catalogue.", metavar="NAME=FEED"
        ),
    ] = None,
    products: Annotated[int, typer.Option(min=0, help="Products of the generated catalogue; 0 leaves it out.")] = 2000,
    seeds: Annotated[int, typer.Option(min=2, help="Number of logs, and of trainings per variant.")] = 3,
    steps: Annotated[int, typer.Option(min=1, help="Training steps of a variant.")] = 100,
    visits: Annotated[int, typer.Option(min=1, help="Simulated visits per product.")] = 40,
    variant: Annotated[list[str] | None, typer.Option(help="Variant to train; repeatable. Default: all.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Number of parallel trainings, one thread each.")] = 2,
    results: Annotated[
        Path | None, typer.Option(help="File of results. Variants with a result are not trained again.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Path of the model card; its picture is written beside it.")] = Path(
        "model-card.md"
    ),
    as_json: AsJson = False,
) -> None:
    """Train the paper's baselines and ablations on simulated logs, and write the model card."""
    from benchmarks.evidence.catalogue import load_catalogue
    from benchmarks.evidence.model_card import write_card
    from benchmarks.evidence.training import ablate as train_all
    from benchmarks.evidence.variants import VARIANTS, EvidenceConfig
    from sagelift.progress import Stages
    from sagelift.services import Services

    config = EvidenceConfig(
        seeds=tuple(range(1, seeds + 1)),
        steps=steps,
        visits_per_product=visits,
        variants=tuple(variant) if variant else tuple(VARIANTS),
    )
    feeds = _feeds(catalog or [])
    stages = Stages()
    with Services(current_settings()) as services:
        kept = services.settings.state / "evidence"
        if products:
            with stages.stage("generated", "Generated catalogue") as stage:
                feeds[_GENERATED] = [_generated(kept / f"generated-{products}", products, stage.update)]
        catalogues = []
        for name, paths in feeds.items():
            with stages.stage(name, f"Images of {name}") as stage:
                catalogues.append(load_catalogue(name, paths, services.visual_cache, stage.update))
        with stages.stage("ablate", "Training all variants") as stage:
            trained = train_all(
                catalogues, config, results or kept / "results.jsonl", jobs=jobs, on_result=stage.update
            )
    write_card(trained, config, out, _command(catalog or [], products, config))
    if as_json:
        return print_json(trained)
    say(f"model card: {out}")


def _feeds(catalogs: list[str]) -> dict[str, list[Path]]:
    feeds: dict[str, list[Path]] = {}
    for given in catalogs:
        name, equals, feed = given.partition("=")
        if not (name and equals and feed) or name == _GENERATED:
            raise typer.BadParameter(
                f"--catalog {given!r} must be a name of your choice, '=', and a feed: shop=products.jsonl"
            )
        feeds.setdefault(name, []).append(Path(feed))
    return feeds


def _generated(folder: Path, products: int, on_progress: Callable[[int, int], None]) -> Path:
    from sagelift.demo.samples import write_sample

    if not (folder / "products.jsonl").exists():
        write_sample(folder, products, progress=lambda n: on_progress(n, products))
    return folder


def _command(catalogs: list[str], products: int, config: EvidenceConfig) -> str:
    named = [f"--catalog {name}" for name in catalogs]
    sizes = [f"--products {products}", f"--seeds {len(config.seeds)}", f"--steps {config.steps}"]
    return " ".join(["python -m benchmarks.evidence", *named, *sizes, f"--visits {config.visits_per_product}"])


if __name__ == "__main__":
    typer.run(ablate)

"""The card of a training run: the contents of its folder, as Markdown for users of the model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from inference.training.config import TrainConfig
from inference.training.result import TrainedModel

_INTRODUCTION = """\
One 256-dimensional unit vector per product from its images and texts (ItemSage, KDD 2022). The dot product with the
vector of an image or a search ranks products. The model reflects the catalogue and the engagements that it was trained
on, and therefore also the recommendations that people saw at that time."""


def run_card(folder: Path, trained: TrainedModel) -> str:
    """Describe a run: parameters, changed configuration, Recall@10 per task against *Sum*, environment.

    Args:
        folder: Folder of the run.
        trained: The run, loaded from the folder.

    Returns:
        Markdown without a final line break.
    """
    result = trained.result
    environment = msgspec.json.decode((folder / "environment.json").read_bytes())
    lines = [
        f"# Run {folder.name}",
        "",
        _INTRODUCTION,
        "",
        f"* Parameters: {result.parameters:,}; vocabulary: {result.vocabulary:,} tokens",
        f"* Pairs: {result.training_pairs:,} for training, {result.held_out_pairs:,} held out",
        f"* Loss: {result.loss[0]:.2f} at the first step, {result.loss[-1]:.2f} at the last, after "
        f"{len(result.loss):,} steps and {result.seconds:,.0f} s",
        f"* Configuration besides the defaults: {', '.join(_changed(trained.config)) or 'none'}",
        f"* Environment: {', '.join(f'{name} {value}' for name, value in environment.items() if value is not None)}",
        "",
        *_table(trained),
    ]
    return "\n".join(lines)


def _changed(config: TrainConfig) -> Iterator[str]:
    defaults = msgspec.to_builtins(TrainConfig())
    for name, value in msgspec.to_builtins(config).items():
        if value != defaults[name]:
            yield f"`{name} = {value}`"


def _table(trained: TrainedModel) -> Iterator[str]:
    itemsage, by_sum = trained.result.itemsage, trained.result.sum
    yield "| task | held-out pairs | Recall@10 | Sum of images, untrained |"
    yield "|---|---|---|---|"
    for task, recall in itemsage.recall.items():
        yield f"| {task} | {itemsage.pairs[task]:,} | {recall:.3f} | {by_sum.recall[task]:.3f} |"
    yield f"| **mean** | | **{itemsage.mean_recall:.3f}** | {by_sum.mean_recall:.3f} |"
    yield f"| share of the catalogue in any top 10 | | {itemsage.coverage:.2f} | {by_sum.coverage:.2f} |"

"""The card of one training run: what its folder knows, as Markdown for whoever meets the model later."""

from __future__ import annotations

from pathlib import Path

import msgspec

from inference.training.config import TrainConfig
from inference.training.result import TrainedModel


def run_card(folder: Path, trained: TrainedModel) -> str:
    """Data, configuration where it differs from the defaults, Recall@10 per task against *Sum*, and the environment."""
    result = trained.result
    chosen = {
        name: value
        for name, value in msgspec.to_builtins(trained.config).items()
        if value != msgspec.to_builtins(TrainConfig())[name]
    }
    environment = msgspec.json.decode((folder / "environment.json").read_bytes())
    lines = [
        f"# Run {folder.name}",
        "",
        "One 256-d unit vector per product from its images and texts (ItemSage, KDD 2022); the dot product with the",
        "vector of an image or a search ranks products. It knows the catalogue and the engagements that it was trained",
        "on, and so whatever the recommender of that time put before people.",
        "",
        f"* Parameters: {result.parameters:,}; vocabulary: {result.vocabulary:,} tokens",
        f"* Pairs: {result.training_pairs:,} trained on, {result.held_out_pairs:,} held out",
        f"* Loss: {result.loss[0]:.2f} at first, {result.loss[-1]:.2f} at last, after {len(result.loss):,} steps and "
        f"{result.seconds:,.0f} s",
        f"* Configuration besides the defaults: {', '.join(f'`{k} = {v}`' for k, v in chosen.items()) or 'none'}",
        f"* Trained with {', '.join(f'{k} {v}' for k, v in environment.items() if v is not None)}",
        "",
        "| task | held-out pairs | Recall@10 | Sum of images, untrained |",
        "|---|---|---|---|",
        *(
            f"| {task} | {result.itemsage.pairs[task]:,} | {recall:.3f} | {result.sum.recall[task]:.3f} |"
            for task, recall in result.itemsage.recall.items()
        ),
        f"| **mean** | | **{result.itemsage.mean_recall:.3f}** | {result.sum.mean_recall:.3f} |",
        f"| share of the catalogue in anyone's ten | | {result.itemsage.coverage:.2f} | {result.sum.coverage:.2f} |",
    ]
    return "\n".join(lines)

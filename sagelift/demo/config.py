"""The size of the demo."""

from __future__ import annotations

from pathlib import Path

import msgspec


class DemoConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The size of the demo.

    Attributes:
        catalog: A feed, or a folder with products.jsonl; None generates the sample.
        products: Number of products of the generated sample.
        shoppers: Number of simulated shoppers.
        days_before: Simulated days before the experiment.
        days_of_experiment: Simulated days of the experiment.
        window_days: Days after the first exposure that count for the metrics.
        training_steps: Training steps of ItemSage.
        changes: Catalogue changes whose freshness is measured.
        changes_per_s: Rate of these changes.
        seed: Random seed.
    """

    catalog: Path | None = None
    products: int = 1000
    shoppers: int = 4000
    days_before: int = 14
    days_of_experiment: int = 14
    window_days: int = 10
    training_steps: int = 125
    changes: int = 300
    changes_per_s: float = 20.0
    seed: int = 7

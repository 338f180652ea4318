"""Data of small experiments, and the numbers of a report, for tests of reports."""

import json
from datetime import date
from typing import Any

import numpy as np
import pandas as pd

from analysis.metrics import Mean
from analysis.render.json import to_json
from analysis.report import Report

GMV = Mean(name="gmv", column="gmv", role="goal")


def users(seed: int = 0, n: int = 2000, lift: float = 0.0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    variant = rng.choice(["a", "b"], n)
    clicks = rng.poisson(2 * np.where(variant == "b", 1 + lift, 1))
    return pd.DataFrame({"variant": variant, "gmv": clicks * rng.lognormal(0, 1, n), "clicks": clicks, "views": 20})


def numbers(report: Report) -> list[float]:
    """Return every number of the metrics as a flat list."""
    results: list[float] = []

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            for key in value:
                walk(value[key])
        elif isinstance(value, list):
            for item in value:
                walk(item)
        elif isinstance(value, float):
            results.append(value)

    walk(json.loads(to_json(report))["metrics"])
    return results


def with_days(n: int = 4000, days: int = 10, lift: float = 0.0, seed: int = 5) -> pd.DataFrame:
    rng = np.random.default_rng(seed + 1000)  # not the draws of the arms again
    data = users(seed, n, lift)
    data["day"] = [date(2026, 6, 1 + int(d)) for d in rng.integers(0, days, n)]
    data["country"] = rng.choice(["de", "fr"], n)
    return data

"""The demo prints the lifts of its metrics, the unadjusted one where there is an adjustment."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.metrics import Mean
from analysis.report import analyze
from analysis.sources import UserTable
from sagelift.demo.report import METRICS, lifts


def test_each_metric_of_the_demo_has_its_lift_with_interval() -> None:
    rng = np.random.default_rng(0)
    arms = rng.choice(["sum", "itemsage"], 600)
    before = rng.gamma(2, 1, 600)
    spent = before * np.where(arms == "itemsage", 1.2, 1.0) + rng.normal(0, 0.2, 600)
    data = pd.DataFrame({"variant": arms, "spent": spent, "before": before})
    gmv = Mean(name=METRICS[0], column="spent", covariate="before")
    clicks = Mean(name=METRICS[1], column="spent")
    report = analyze(UserTable(data), [gmv, clicks], "sum", "itemsage")
    adjusted, plain = (lifts(report)[name] for name in METRICS)
    assert adjusted.method.startswith("cuped+")
    assert adjusted.unadjusted == plain.lift == plain.unadjusted
    assert adjusted.low is not None
    assert adjusted.high is not None
    assert adjusted.lift is not None
    assert adjusted.low < adjusted.lift < adjusted.high
    assert abs(adjusted.lift - 0.2) < 0.05

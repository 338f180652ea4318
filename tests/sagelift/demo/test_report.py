"""The demo's report is that of `sagelift report`, and the demo prints the lifts of its metrics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.metrics import Mean
from analysis.report import analyze
from analysis.sources import UserTable
from sagelift.demo.experiment import CONTROL, EXPERIMENT, TREATMENT, start_experiment
from sagelift.demo.report import METRICS, lifts, write_report
from sagelift.services import Services
from sagelift.settings import load_settings
from tests.sagelift.commands.analysis_commands import reports_of, run

DAY_US, START_US = 86_400_000_000, 1_780_272_000_000_000


def test_the_command_of_the_readme_gives_the_report_of_the_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The window and the other settings of the analysis are in the experiment's config, not in the demo."""
    monkeypatch.setenv("SAGELIFT_STATE_DIR", str(tmp_path))
    with Services(load_settings(state_dir=tmp_path)) as services:
        start_experiment(services, window_days=3)
        with services.experiments.engine.begin() as connection:
            for i in range(40):
                unit, arm, day = f"u{i}", (CONTROL, TREATMENT)[i % 2], START_US + i % 5 * DAY_US
                connection.exec_driver_sql(
                    "INSERT INTO first_exposure_by_phase (experiment, phase, unit_id, arm, first_time, attributes) "
                    "VALUES (?, 1, ?, ?, ?, '{}')",
                    (EXPERIMENT, unit, arm, day),
                )
                for n in range(i % 7):
                    connection.exec_driver_sql(
                        "INSERT INTO event (event_id, kind, unit_id, event_time, product_id, ingested_at) "
                        "VALUES (?, 'click', ?, ?, 'p', ?)",
                        (f"{unit}-{n}", unit, day + n * DAY_US, START_US + 90 * DAY_US),
                    )
        report = write_report(services, tmp_path / "report.html")
    done = run("report", EXPERIMENT, "--json")
    assert reports_of(done) == [report]
    assert report.data.window_seconds == 3 * 86_400
    assert [(m.name, m.role) for m in report.metrics][:3] == [
        ("gmv_per_user", "goal"),
        ("clicks_per_user", "goal"),
        ("gmv_gross_per_user", "secondary"),
    ]
    assert len(report.metrics) == 7
    assert all(check.name != "late_data" for check in report.checks)


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

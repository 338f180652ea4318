"""End to end: the whole loop on real components, with small sizes."""

import os
from pathlib import Path

import psutil
import pytest

from sagelift.demo.config import DemoConfig
from sagelift.demo.demo import Demo
from sagelift.settings import load_settings

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(420),
    pytest.mark.filterwarnings("ignore:fetch_:DeprecationWarning"),
]

SMALL = DemoConfig(
    products=60, shoppers=400, days_before=4, days_of_experiment=4, window_days=3, training_steps=20, changes=40
)


def test_the_demo_runs_all_stages_and_leaves_nothing_running(tmp_path: Path) -> None:
    """Every stage runs, and no process is left at the end."""
    before = set(psutil.Process(os.getpid()).children(recursive=True))  # servers that tests share
    settings = load_settings(state_dir=tmp_path)
    result, report = Demo(settings, SMALL).run()

    assert result.catalogue.products == 60
    assert result.dead_letters == 2  # of 40 changes, every twentieth is poison
    assert result.freshness_ms.count > 0
    assert 0 < result.freshness_ms.p50 <= result.freshness_ms.p99
    assert result.model["probe_cosine"] > 0.999
    assert set(result.lifts) == {"gmv_per_user", "clicks_per_user"}
    clicks = result.lifts["clicks_per_user"]
    assert clicks.control
    assert clicks.treatment
    assert report.metric("clicks_per_user").n_control + report.metric("clicks_per_user").n_treatment > 100
    assert result.srm_p is not None
    assert "itemsage" in Path(result.report).read_text()
    assert list(result.stages_s) == [
        "components",
        "catalogue",
        "stack",
        "features",
        "history",
        "training",
        "release",
        "updates",
        "experiment",
        "report",
    ]
    ours = set(psutil.Process(os.getpid()).children(recursive=True)) - before
    assert not [p for p in ours if p.status() != psutil.STATUS_ZOMBIE]
    state = str(tmp_path)
    left = [p.info for p in psutil.process_iter(["pid", "cmdline"]) if state in " ".join(p.info["cmdline"] or ())]
    assert not left

"""The report of the demo's experiment, and the figures that the demo prints."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from sagelift.demo.config import DemoConfig
from sagelift.demo.experiment import CONTROL, EXPERIMENT, TREATMENT
from sagelift.demo.results import Lift
from sagelift.services import Services

if TYPE_CHECKING:
    from analysis.results import Report

METRICS = ("gmv_per_user", "clicks_per_user")


def write_report(services: Services, config: DemoConfig, path: Path) -> Report:
    """Analyze the experiment and write the report as HTML."""
    from analysis.metrics import shop_metrics
    from analysis.novelty import age_windows
    from analysis.render.html import write_html
    from analysis.report import analyze
    from analysis.sources.experiment_tables import ExperimentTables

    window = timedelta(days=config.window_days)
    # The events of four simulated weeks arrive within minutes, so their delay means nothing.
    source = ExperimentTables(services.database, EXPERIMENT, window=window, late_after=None)
    report = analyze(
        source,
        shop_metrics(),
        control=CONTROL,
        treatment=TREATMENT,
        title="ItemSage against Sum",
        ages=age_windows(window, window / 7),
    )
    write_html(report, path)
    return report


def lifts(report: Report) -> dict[str, Lift]:
    """Return the lifts of the demo's metrics."""
    return {
        name: Lift(
            control=m.control,
            treatment=m.treatment,
            lift=m.lift,
            low=m.low,
            high=m.high,
            p=m.p,
            method=m.method,
            unadjusted=m.unadjusted.lift if m.unadjusted else m.lift,
        )
        for name in METRICS
        for m in [report.metric(name)]
    }


def count_dead_letters(services: Services) -> int:
    """Return the number of dead letters of both consumers."""
    from streaming.kafka.lag import LagMeter
    from streaming.kafka.topics import CATALOG_UPDATES, EVENTS, dead_letter_topic

    count = 0
    for topic in (CATALOG_UPDATES, EVENTS):
        with LagMeter(services.kafka, "sagelift-demo", dead_letter_topic(topic)) as meter:
            count += meter.end()
    return count

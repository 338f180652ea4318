"""The report of the demo's experiment, and the figures that the demo prints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sagelift.demo.experiment import EXPERIMENT
from sagelift.demo.results import Lift
from sagelift.services import Services

if TYPE_CHECKING:
    from analysis.results import Report

METRICS = ("gmv_per_user", "clicks_per_user")


def write_report(services: Services, path: Path) -> Report:
    """Analyze the experiment as its config says, as `sagelift report` does, and write the report as HTML."""
    from analysis.novelty import age_windows
    from analysis.render.html import write_html
    from analysis.report import analyze_arms
    from sagelift.experiment_report import plan_report

    plan = plan_report(services.experiments, EXPERIMENT)
    (report,) = analyze_arms(
        plan.source(services.experiments.engine),
        plan.metrics,
        str(plan.control),
        plan.treatments,
        plan.split,
        title=EXPERIMENT,
        ages=tuple(age_windows(plan.window, plan.window / 7)),
        choose_goal=not plan.has_roles,
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

"""The report as one self-contained HTML page, without scripts, fonts and external pictures."""

from pathlib import Path

from markupsafe import Markup

from analysis.render import charts, wording
from analysis.render.files import write_text_atomically
from analysis.render.page import load_template
from analysis.results import Report

_MARKS = {"ok": "✓", "warn": "!", "fail": "✕"}
_TONES = {"ship": "good", "do not ship": "bad", "keep running": "open", "cannot trust": "bad"}


def to_html(report: Report) -> str:
    """Return the page as text. Everything that comes from data is escaped."""
    axis = charts.lift_axis(report)
    metrics = wording.by_role(report)
    pictures = [
        (r.label, Markup(picture)) for r in metrics if r.role == "goal" and (picture := charts.cumulative_chart(r))
    ]
    aged = [(r.label, Markup(picture)) for r in metrics if r.role == "goal" and (picture := charts.age_chart(r))]
    text: str = load_template(Path(__file__).with_name("report.html.j2")).render(
        report=report,
        data=report.data,
        wording=wording,
        marks=_MARKS,
        arms=wording.arms(report),
        tone=_TONES[report.verdict.conclusion],
        axis=Markup(charts.axis_row(axis)),
        rows=[(r, wording.effect(r, report), Markup(charts.interval_bar(r, axis, report))) for r in metrics],
        pictures=pictures,
        aged=aged,
        ages=[(r.label, part) for r in metrics for part in r.ages],
        segments=[(r.label, part) for r in metrics for part in r.segments],
        # The enrolment gets a full row if it would otherwise be alone in one.
        wide=(len(pictures) + len(aged)) % 2 == 0,
        enrolment=Markup(charts.enrolment_chart(report, wide=(len(pictures) + len(aged)) % 2 == 0)),
        checks=sorted(report.checks, key=lambda check: ("fail", "warn", "ok").index(check.status)),
        percent=f"{1 - report.alpha:.0%}",
    )
    return text


def write_html(report: Report, path: Path) -> Path:
    """Write the page atomically and return its path."""
    return write_text_atomically(path, to_html(report))

"""The report as Markdown, for a pull request or a wiki page."""

from analysis.render import wording
from analysis.results import Report

_MARKS = {"ok": "✅", "warn": "⚠️", "fail": "❌"}


def to_markdown(report: Report) -> str:
    """Return the report as Markdown. Text from data cannot end a table cell or start an HTML tag."""
    currency, data = report.data.currency, report.data
    rows = [
        (
            result.label,
            result.role,
            wording.quantity(result.control, result.unit, currency),
            wording.quantity(result.treatment, result.unit, currency),
            wording.lift(result.lift),
            wording.interval(result),
            wording.p_values(result),
        )
        for result in wording.by_role(report)
    ]
    head = ("Metric", "Role", report.control, report.treatment, "Lift", f"{1 - report.alpha:.0%} interval", "p")
    lines = [
        f"# {_cell(report.title)}: {wording.CONCLUSIONS[report.verdict.conclusion].lower()}",
        "",
        *[f"- {_cell(reason)}" for reason in report.verdict.reasons],
        "",
        _row(head),
        _row(("---", "---", "---:", "---:", "---:", "---:", "---:")),
        *[_row(row) for row in rows],
        "",
        *[f"- {_cell(note)}" for note in wording.notes(report)],
        *_segments(report),
        *_ages(report),
        "",
        "## Checks",
        "",
        *[f"- {_MARKS[c.status]} **{wording.check_name(c.name)}** {_cell(c.sentence)}" for c in report.checks],
        "",
        wording.provenance(report),
        "",
        "<details><summary>SQL</summary>",
        "",
        *[f"```sql\n{sql}\n```" for sql in data.sql],
        "",
        "</details>",
    ]
    return "\n".join(lines) + "\n"


def _segments(report: Report) -> list[str]:
    """Return the table of the metrics by segment; empty without segments."""
    rows = [
        (
            result.label,
            part.segment,
            f"{part.n_control:,}",
            f"{part.n_treatment:,}",
            wording.lift(part.lift),
            wording.bounds(part.low, part.high),
            wording.p_value(part.p_adjusted),
        )
        for result in wording.by_role(report)
        for part in result.segments
    ]
    if not rows:
        return []
    head = ("Metric", str(report.data.segment), report.control, report.treatment, "Lift", "Interval", "Adjusted p")
    return [
        "",
        "## Segments (exploratory)",
        "",
        _row(head),
        _row(("---", "---", "---:", "---:", "---:", "---:", "---:")),
        *[_row(row) for row in rows],
    ]


def _ages(report: Report) -> list[str]:
    """Return the table of the goals by time since exposure; empty without ages."""
    rows = [
        (
            result.label,
            wording.age(part.start_days, part.end_days),
            f"{part.n_control:,}",
            f"{part.n_treatment:,}",
            wording.lift(part.lift),
            wording.bounds(part.low, part.high),
        )
        for result in wording.by_role(report)
        for part in (result.ages if result.role == "goal" else ())
    ]
    if not rows:
        return []
    head = ("Metric", "Since exposure", report.control, report.treatment, "Lift", "Interval")
    aligned = _row(("---", "---", "---:", "---:", "---:", "---:"))
    return ["", "## By time since exposure", "", _row(head), aligned, *[_row(row) for row in rows]]


def _row(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(text: str) -> str:
    """Escape text, so that it cannot end a cell or start a tag."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")

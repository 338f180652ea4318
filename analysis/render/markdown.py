"""The report as Markdown, for a pull request or a wiki page."""

from analysis.render import words
from analysis.report import Report

_MARKS = {"ok": "✅", "warn": "⚠️", "fail": "❌"}


def to_markdown(report: Report) -> str:
    currency, data = report.data.currency, report.data
    rows = [
        (
            result.label,
            result.role,
            words.quantity(result.control, result.unit, currency),
            words.quantity(result.treatment, result.unit, currency),
            words.lift(result.lift),
            words.interval(result),
            words.p_value(result.p),
        )
        for result in words.in_order(report)
    ]
    head = ("Metric", "Role", report.control, report.treatment, "Lift", f"{1 - report.alpha:.0%} interval", "p")
    versions = ", ".join(map(str, data.config_versions)) or words.DASH
    lines = [
        f"# {_cell(report.title)}: {words.VERDICTS[report.decision.verdict].lower()}",
        "",
        *[f"- {_cell(reason)}" for reason in report.decision.reasons],
        "",
        _row(head),
        _row(("---", "---", "---:", "---:", "---:", "---:", "---:")),
        *[_row(row) for row in rows],
        "",
        "## Checks",
        "",
        *[f"- {_MARKS[c.status]} **{words.check_name(c.name)}** {_cell(c.sentence)}" for c in report.checks],
        "",
        f"Data until {words.when(data.cut_off)}, config version {versions}. {words.method(report)}",
        "",
        "<details><summary>SQL</summary>",
        "",
        *[f"```sql\n{sql}\n```" for sql in data.sql],
        "",
        "</details>",
    ]
    return "\n".join(lines) + "\n"


def _row(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(text: str) -> str:
    """Text that cannot end a cell or start a tag."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")

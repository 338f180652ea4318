"""A report as Markdown: tables whose cells no text from data can end."""

import re

from analysis.render.markdown import to_markdown
from analysis.report import Report, analyze
from analysis.sources import UserTable
from tests.analysis.render.builders import evil_report
from tests.analysis.reports import GMV, with_days


def rows(report: Report) -> list[list[str]]:
    lines = [line for line in to_markdown(report).splitlines() if line.startswith("|")]
    return [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]


def test_every_metric_has_a_row_and_every_check_a_line(report: Report) -> None:
    text = to_markdown(report)
    labels = [row[0].strip() for row in rows(report)]
    assert all(result.label in labels for result in report.metrics)
    checks = text.split("## Checks")[1].split("<details>")[0]
    assert len(re.findall(r"^- ", checks, re.MULTILINE)) == len(report.checks)
    assert text.endswith("</details>\n")


def test_every_row_of_a_table_has_as_many_cells_as_its_head() -> None:
    assert {len(row) for row in rows(evil_report())} == {7}


def test_segments_have_a_table_only_where_there_are_some() -> None:
    data = with_days(400)
    plain = analyze(UserTable(data), [GMV], "a", "b")
    split = analyze(UserTable(data, segment="country"), [GMV], "a", "b")
    assert "## Segments" not in to_markdown(plain)
    section = to_markdown(split).split("## Segments (exploratory)")[1].split("##")[0]
    assert re.findall(r"\| gmv \| (\w+) \|", section) == ["de", "fr"]


def test_ages_have_a_table_of_the_goals(report: Report) -> None:
    assert not any(result.ages for result in report.metrics)
    assert "## By time since exposure" not in to_markdown(report)

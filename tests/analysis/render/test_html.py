"""The page stands alone, escapes names from data, and is written as a whole."""

import re
from html import unescape
from pathlib import Path
from xml.etree import ElementTree

import pytest

from analysis.render.html import to_html, write_html
from analysis.render.markdown import to_markdown
from analysis.report import Report
from tests.analysis.render.builders import evil_report, plain


def test_the_page_stands_alone_and_is_described_for_those_who_cannot_see_it(report: Report) -> None:
    page = to_html(report)
    assert not re.search(r"""(src|href)\s*=|url\(|@import|<script|https?://""", page)
    pictures = re.findall(r"<svg.*?</svg>", page, flags=re.S)
    assert len(pictures) == 1 + len(report.metrics) + 2 + 1  # axis, intervals, two goals over time, enrolment
    for picture in pictures:
        ElementTree.fromstring(picture)
        assert 'aria-hidden="true"' in picture or ('role="img"' in picture and "<title>" in picture)
        assert "nan" not in picture
    assert "prefers-color-scheme: dark" in page
    assert len(page) < 100_000


def test_the_sql_stands_on_the_page_as_it_ran(report: Report) -> None:
    assert report.data.sql[0] in unescape(to_html(report))
    assert report.data.sql[0] in to_markdown(report)


def test_names_from_data_are_escaped_everywhere() -> None:
    report = evil_report()
    page = to_html(report)
    assert "<script" not in page
    assert "<img" not in page
    assert "<b>a" not in page
    assert "&lt;script&gt;" in page
    table = [line for line in to_markdown(report).splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1
    assert "<script" not in to_markdown(report).split("```")[0]
    assert "<script>" in plain(report)  # a terminal shows it as it is


def test_a_page_is_written_whole_or_not_at_all(report: Report, tmp_path: Path) -> None:
    path = write_html(report, tmp_path / "report.html")
    assert path.read_text(encoding="utf-8") == to_html(report)
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_html(report, tmp_path / "taken")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "taken"]


def test_a_report_without_days_has_no_empty_pictures() -> None:
    page = to_html(evil_report())
    assert "Over time" not in page
    assert 'class="chart"' not in page

"""Reports are printed in the format that was asked for, and the exit code says whether a check failed."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pandas as pd
import pytest
import typer

from analysis.metrics import Mean
from analysis.report import analyze_arms
from analysis.results import Report
from analysis.sources import UserTable
from sagelift.commands.analysis_options import OutputOptions, ReportOutput
from sagelift.commands.analysis_output import print_results, show_reports


@pytest.fixture(scope="module")
def reports(data: pd.DataFrame) -> list[Report]:
    three_arms = data.assign(variant=[f"arm {n % 3}" for n in range(len(data))])
    return analyze_arms(UserTable(three_arms), [Mean(name="gmv", column="gmv")], "arm 0")


def shown(reports: list[Report], output: ReportOutput) -> int:
    with pytest.raises(typer.Exit) as caught:
        show_reports(reports, output)
    return caught.value.exit_code


def failed(report: Report) -> Report:
    checks = [msgspec.structs.replace(report.checks[0], status="fail"), *report.checks[1:]]
    return msgspec.structs.replace(report, checks=checks)


def test_json_is_a_list_of_reports_also_of_one(reports: list[Report], capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(reports[:1], ReportOutput(as_json=True)) == 0
    assert [report["treatment"] for report in json.loads(capsys.readouterr().out)] == ["arm 1"]
    shown(reports, ReportOutput(as_json=True))
    assert [report["treatment"] for report in json.loads(capsys.readouterr().out)] == ["arm 1", "arm 2"]


def test_a_failed_check_of_any_report_is_exit_code_1(reports: list[Report]) -> None:
    assert shown(reports, ReportOutput(as_json=True)) == 0
    assert shown([reports[0], failed(reports[1])], ReportOutput(as_json=True)) == 1


def test_each_of_several_reports_has_a_page_named_after_its_arm(
    reports: list[Report], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown(reports, ReportOutput(html=tmp_path / "report.html", as_json=True))
    assert sorted(page.name for page in tmp_path.iterdir()) == ["report-arm_1.html", "report-arm_2.html"]
    shown(reports[:1], ReportOutput(html=tmp_path / "only.html", as_json=True))
    assert (tmp_path / "only.html").exists()
    assert "page: " in capsys.readouterr().err, "the page must not mix with JSON on stdout"


def test_results_are_printed_as_markdown_or_for_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_results([1, 2], lambda n: f"# {n}\n", str, OutputOptions(markdown=True))
    assert capsys.readouterr().out == "# 1\n\n# 2\n"
    print_results([1, 2], lambda n: f"# {n}\n", lambda n: f"table {n}", OutputOptions())
    assert capsys.readouterr().out == "table 1\ntable 2\n"

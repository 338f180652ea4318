"""Each quickstart (docs/*/quickstart.md) does what it says, from top to bottom, in an empty folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.quickstart import run_quickstart

pytestmark = pytest.mark.integration


def test_an_analyst_gets_a_report_from_the_sample(tmp_path: Path) -> None:
    printed = run_quickstart("analysts/quickstart.md", tmp_path)
    assert "\nship\n" in printed, printed
    assert (tmp_path / "report.html").stat().st_size > 10_000


@pytest.mark.timeout(420)
def test_an_operator_finds_and_replays_a_dead_letter(tmp_path: Path, cache: Path) -> None:
    printed = run_quickstart("operators/quickstart.md", tmp_path)
    assert "100 published, 0 refused" in printed, printed


@pytest.mark.timeout(420)
def test_a_lost_online_store_is_recovered(tmp_path: Path, cache: Path) -> None:
    printed = run_quickstart("jobs/quickstart.md", tmp_path)
    assert "100 published, 0 refused" in printed, printed


@pytest.mark.timeout(420)
def test_a_shop_sees_its_clicks_in_a_report(tmp_path: Path, cache: Path) -> None:
    printed = run_quickstart("shops/quickstart.md", tmp_path)
    assert "Sample ratio" in printed, printed
    assert (tmp_path / "report.html").exists()

"""`sagelift report`: the report of an experiment in the database."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import create_engine

from analysis.results import DesignUsed, Report
from experiments.store import ExperimentStore
from tests.sagelift.commands.analysis_commands import message_of, reports_of, run

DAY_US, START_US = 86_400_000_000, 1_780_272_000_000_000


@pytest.fixture(autouse=True)
def _experiment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The experiment `similar`: 60 units in two arms, one every 2.4 hours, and a table of their countries."""
    url = f"sqlite:///{tmp_path / 'shop.db'}"
    monkeypatch.setenv("SAGELIFT_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("SAGELIFT_EXPERIMENTS__DATABASE_URL", url)
    engine = create_engine(url)
    store = ExperimentStore(engine)
    store.create_all()
    store.create_experiment("similar", actor="test")
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE customer (unit_id TEXT, country TEXT)")
        for i in range(60):
            arm = ("sum", "itemsage")[i % 2]
            connection.exec_driver_sql(
                "INSERT INTO first_exposure_by_phase (experiment, phase, unit_id, arm, first_time) "
                "VALUES (?, 1, ?, ?, ?)",
                ("similar", f"u{i}", arm, START_US + i * DAY_US // 10),
            )
            connection.exec_driver_sql("INSERT INTO customer VALUES (?, ?)", (f"u{i}", "DE" if i % 3 else "FR"))
    engine.dispose()


def report(*options: object) -> Report:
    """The report of `similar` as of 5 June."""
    done = run("report", "similar", "--control", "sum", "--as-of", "2026-06-05", *options, "--json")
    assert done.stdout, done.output
    return reports_of(done)[0]


def test_report_reads_the_experiment_up_to_a_time_and_by_segment() -> None:
    result = report("--segment", "customer.country")
    assert result.treatment == "itemsage"
    assert result.data.units == {"itemsage": 20, "sum": 21}
    assert result.data.cut_off == "2026-06-05T00:00:00+00:00"
    assert result.data.segment == "country"
    assert [m.name for m in result.metrics][:2] == ["gmv_per_user", "clicks_per_user"]


def test_metrics_by_age_are_in_sevenths_of_the_window_unless_a_step_is_given() -> None:
    assert [age.end_days for age in report().metrics[0].ages] == [2.0]
    assert [age.end_days for age in report("--by-age", 0.5).metrics[0].ages][:2] == [0.5, 1.0]
    assert not any(metric.ages for metric in report("--by-age", 0).metrics)


def test_a_look_of_a_design_is_in_the_report() -> None:
    result = report("--planned-units", 90, "--spending", "pocock", "--earlier-looks", "20")
    assert result.design == DesignUsed(spending="pocock", planned_units=90, earlier=[20], look=2, units=41, ended=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--as-of", "soon"], "'soon' is not a time; write 2026"),
        (["--segment", "customer."], "customer.country"),
        (["--segment", ".country"], "customer.country"),
        (["--window-days", "0"], "--window-days"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_names_the_remedy(options: list[str], message: str) -> None:
    refused = run("report", "similar", "--control", "sum", *options)
    assert refused.exit_code == 2
    assert message in message_of(refused)

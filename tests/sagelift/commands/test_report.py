"""`sagelift report`: the report of an experiment in the database."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from sqlalchemy import create_engine

from analysis.results import DesignUsed, Report
from experiments.config import AnalysisPlan, Arm, ExperimentConfig, MetricRole
from experiments.metrics import from_yaml
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


METRICS = """
metrics:
  - {name: orders_per_user, owner: shop, tier: 1, kind: count, column: orders, covariate: orders_pre}
  - {name: gmv_per_user, owner: shop, tier: 1, kind: mean, column: gmv_net, unit: money}
  - {name: latency, owner: search, tier: 2, kind: mean, column: saves, direction: decrease}
"""
CONFIG = ExperimentConfig(
    key="ranking",
    salt="ranking-1",
    coverage=1_000,
    arms=(Arm("control", 9_000), Arm("treatment", 1_000)),
    control="control",
    metrics=(
        MetricRole("orders_per_user", "goal"),
        MetricRole("gmv_per_user", "guardrail", 0.2),
        MetricRole("latency", "secondary"),
    ),
    record=("country",),
    analysis=AnalysisPlan(window_days=5, pre_period_days=7, segment="country"),
)


@pytest.fixture
def published(tmp_path: Path) -> ExperimentStore:
    """The store with `ranking`, which runs and has no exposures yet."""
    store = ExperimentStore(create_engine(f"sqlite:///{tmp_path / 'shop.db'}"))
    store.publish_metrics(from_yaml(METRICS), actor="test")
    store.publish(CONFIG, actor="test", create=True)
    store.start("ranking", actor="test", reason="test")
    return store


@pytest.fixture
def store(published: ExperimentStore) -> ExperimentStore:
    """The store with `ranking` and 900 units in control and 100 in the treatment."""
    expose(published, {"control": 900, "treatment": 100})
    return published


def expose(store: ExperimentStore, units: dict[str, int], phase: int = 1, fewer: int = 0) -> None:
    """Expose units with two or three orders of 10 EUR each; treated units have `fewer`."""
    exposures, orders = [], []
    for arm, count in units.items():
        for i in range(count):
            unit = f"{arm}{phase}-{i}"
            country = "DE" if i % 2 else "FR"
            exposures.append((phase, unit, arm, START_US + i, f'{{"country": "{country}"}}'))
            bought = 2 + i % 2 - (fewer if arm == "treatment" else 0)
            orders += [
                (f"{unit}-{n}", f"{unit}-{n}", unit, START_US + DAY_US, START_US + DAY_US) for n in range(bought)
            ]
    with store.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO first_exposure_by_phase (experiment, phase, unit_id, arm, first_time, attributes) "
            "VALUES ('ranking', ?, ?, ?, ?, ?)",
            exposures,
        )
        connection.exec_driver_sql(
            "INSERT INTO order_event (event_id, kind, order_id, unit_id, event_time, amount_minor, currency, "
            "ingested_at) VALUES (?, 'placed', ?, ?, ?, 1000, 'EUR', ?)",
            orders,
        )


def changed(**fields: object) -> ExperimentConfig:
    """The config with other fields."""
    return msgspec.structs.replace(CONFIG, **fields)


def ranking(*options: object) -> Report:
    """The report of `ranking`."""
    done = run("report", "ranking", *options, "--json")
    assert done.stdout, done.output
    (report,) = reports_of(done)
    return report


def test_a_report_takes_everything_from_the_published_config(store: ExperimentStore) -> None:
    result = ranking()
    assert (result.control, result.treatment) == ("control", "treatment")
    assert result.expected_split == {"control": 9_000.0, "treatment": 1_000.0}
    assert result.check("sample_ratio").status == "ok"
    assert [(m.name, m.role, m.direction) for m in result.metrics] == [
        ("orders_per_user", "goal", "increase"),
        ("gmv_per_user", "guardrail", "increase"),
        ("latency", "secondary", "decrease"),
    ]
    margin = result.metric("gmv_per_user").margin
    assert margin is not None
    assert margin.margin == 0.2
    assert (result.data.window_seconds, result.data.pre_period_seconds) == (5 * 86_400, 7 * 86_400)
    assert result.data.segment == "country"
    assert result.overridden == []
    assert "Overridden" not in run("report", "ranking").stdout


def test_options_override_the_config_and_the_report_says_so(store: ExperimentStore, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    options = (
        *("--window-days", 2, "--split", "control=0.5,treatment=0.5", "--goal", "latency"),
        *("--guardrail", "gmv_per_user=10%", "--planned-units", 5000, "--html", page),
    )
    result = ranking(*options)
    stated = [
        "split control=0.5, treatment=0.5 instead of control=9000, treatment=1000",
        "window in days 2 instead of 5",
        "orders_per_user is a secondary instead of a goal",
        "gmv_per_user is a guardrail with a margin of 10 % instead of a guardrail with a margin of 20 %",
        "latency is a goal instead of a secondary",
        "planned units 5000 instead of none",
    ]
    assert sorted(result.overridden) == sorted(stated)
    assert result.check("sample_ratio").status == "fail"
    assert result.planned_units == 5000
    assert "window in days 2 instead of 5" in page.read_text(encoding="utf-8")
    assert "window in days 2 instead of 5" in message_of(run("report", "ranking", *options))
    assert "window in days 2 instead of 5" in run("report", "ranking", *options, "--markdown").stdout
    same = ranking("--control", "control", "--treatment", "treatment", "--window-days", 5, "--segment", "country")
    assert same.overridden == []


def test_the_planned_split_is_that_of_the_phase_and_a_ramp_does_not_change_it(store: ExperimentStore) -> None:
    store.ramp("ranking", 2_000, actor="test", reason="test")
    assert ranking().check("sample_ratio").status == "ok"
    even = changed(salt="ranking-2", arms=(Arm("control", 5_000), Arm("treatment", 5_000)), coverage=2_000)
    store.new_phase(even, actor="test", reason="test")
    expose(store, {"control": 60, "treatment": 62}, phase=2)
    result = ranking()
    assert result.expected_split == {"control": 5_000.0, "treatment": 5_000.0}
    assert result.data.units == {"control": 60, "treatment": 62}
    assert result.check("sample_ratio").status == "ok"
    store.stop("ranking", actor="test", reason="test")
    assert ranking().expected_split == {"control": 5_000.0, "treatment": 5_000.0}


def test_planned_looks_of_the_config_are_the_looks_of_the_report(store: ExperimentStore) -> None:
    for looks, earlier, early in (((400, 1_000), [400], 0), ((1_500,), [], 1)):
        analysis = AnalysisPlan(planned_units=2_000, spending="obrien-fleming", looks=looks)
        store.publish(changed(analysis=analysis), actor="test")
        result = ranking()
        assert result.design is not None
        assert (result.design.earlier, result.design.units, result.design.look) == (earlier, 1_000, len(earlier) + 1)
        assert len(result.overridden) == early
    assert result.overridden == ["read at 1,000 units instead of at the first planned look of 1,500"]
    given = ranking("--earlier-looks", 500)
    assert given.design is not None
    assert (given.design.earlier, given.design.spending) == ([500], "obrien-fleming")


def test_report_guard_and_tick_apply_one_rule_to_a_guardrail(published: ExperimentStore) -> None:
    """Treated units lose 40 % of their orders: worse than a margin of 20 %, within one of 60 %."""
    expose(published, {"control": 900, "treatment": 110}, fewer=1)
    for margin, vetoed in ((0.2, True), (0.6, False), (None, True)):
        metrics = (MetricRole("gmv_per_user", "guardrail", margin),)
        published.publish(changed(metrics=metrics, analysis=AnalysisPlan()), actor="test")
        result = ranking()
        assert [m.role for m in result.metrics] == ["guardrail"]
        assert result.verdict.conclusion == ("do not ship" if vetoed else "ship")
        guard = run("experiment", "guard", "ranking", "--planned-units", 1_010)
        assert guard.exit_code == int(vetoed), guard.output
        assert ("breached" in guard.stdout) is vetoed
        assert run("experiment", "tick", "--planned-units", 1_010, "--on-breach", "report").exit_code == int(vetoed)


def test_without_a_goal_in_the_config_no_metric_becomes_one(store: ExperimentStore) -> None:
    metrics = (MetricRole("latency", "secondary"), MetricRole("gmv_per_user", "guardrail"))
    store.publish(changed(metrics=metrics), actor="test")
    result = ranking()
    assert [m.role for m in result.metrics] == ["secondary", "guardrail"]
    assert "No metric is a goal, so the verdict is about the guardrails only." in result.verdict.reasons
    assert ranking("--goal", "latency").metric("latency").role == "goal"
    refused = run("report", "ranking", "--goal", "gmv_per_user")
    assert refused.exit_code == 2
    assert "a guardrail cannot be a goal" in message_of(refused)


def test_without_a_published_config_the_control_must_be_given() -> None:
    refused = run("report", "similar")
    assert refused.exit_code == 2
    assert "no published config that names the control" in message_of(refused)


def test_a_file_of_metrics_replaces_definitions_and_adds_metrics(store: ExperimentStore, tmp_path: Path) -> None:
    file = tmp_path / "m.yaml"
    file.write_text(
        "metrics:\n  - {kind: proportion, name: buyers, column: orders}\n"
        "  - {kind: count, name: orders_per_user, column: orders}\n"
    )
    result = ranking("--metrics", file)
    assert [(m.name, m.role) for m in result.metrics] == [
        *(("orders_per_user", "goal"), ("gmv_per_user", "guardrail"), ("latency", "secondary")),
        ("buyers", "secondary"),
    ]
    assert result.overridden == [f"metrics of {file} before the published ones"]

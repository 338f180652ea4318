"""`sagelift analyze` and `simulate`: what Python would give, and one sentence where it cannot be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sqlalchemy import create_engine

from analysis.bayes import Prior
from analysis.columns import Cap, Filter
from analysis.errors import AnalysisError
from analysis.metrics import Count, Mean, Proportion, Quantile, Ratio
from analysis.render import wording
from analysis.render.json import to_json
from analysis.report import analyze
from analysis.sequential import Design
from analysis.simulation import simulate
from analysis.sources import UserTable
from tests.sagelift.commands.analysis_commands import exit_code, message_of, reports_of, run


def test_the_example_of_the_documentation_gives_the_report_of_python(path: Path) -> None:
    done = run("analyze", path, "--variant", "variant", "--control", 0, "--mean", "gmv", "--ratio",
               "clicks/impressions", "--covariate", "gmv_pre", "--json")  # fmt: skip
    assert done.exit_code == 0, done.output
    metrics = [
        Mean(name="gmv", column="gmv", covariate="gmv_pre"),
        Ratio(name="clicks/impressions", numerator="clicks", denominator="impressions"),
    ]
    assert reports_of(done)[0] == analyze(UserTable(path), metrics, "0", "1")


def test_every_option_reaches_the_metric_it_is_for(path: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    done = run(
        "analyze", path, "--control", 0, "--treatment", 1, "--unit", "id", "--segment", "country",
        "--mean", "gmv", "--count", "clicks", "--ratio", "gmv/clicks", "--proportion", "gmv", "--quantile", "spent@0.9",
        "--covariate", "gmv_pre", "--covariate", "gmv/clicks=gmv_pre", "--cap", "gmv=p99:nonzero", "--money", "gmv",
        "--currency", "EUR", "--where", "country=DE,FR", "--where", "impressions>=3", "--split", "0=1,1=1",
        "--alpha", 0.1, "--interval", "delta", "--planned-units", 5000, "--title", "T", "--html", page, "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    metrics = [
        Mean(name="gmv", column="gmv", unit="money", covariates=("gmv_pre",),
             cap=Cap(upper_quantile=0.99, nonzero=True)),
        Count(name="clicks", column="clicks", covariates=("gmv_pre",)),
        Ratio(name="gmv/clicks", numerator="gmv", denominator="clicks", unit="money", covariates=("gmv_pre",)),
        Proportion(name="gmv > 0", column="gmv"),
        Quantile(name="spent@0.9", column="spent", q=0.9),
    ]  # fmt: skip
    where = (Filter("country", "in", ("DE", "FR")), Filter("impressions", ">=", 3))
    source = UserTable(str(path), unit="id", segment="country", where=where, currency="EUR", money=("gmv",))
    expected = analyze(
        source, metrics, "0", "1", {"0": 1, "1": 1}, 0.1, interval="delta", planned_units=5000, title="T"
    )
    assert json.loads(done.stdout) == [json.loads(to_json(expected))]
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_guardrails_equivalence_prior_and_resampling_are_those_of_python(path: Path) -> None:
    done = run(
        "analyze", path, "--control", 0, "--mean", "gmv", "--count", "clicks", "--mean", "spent",
        "--segment", "country", "--guardrail", "clicks=2%", "--guardrail", "spent", "--lower-is-better", "spent",
        "--equivalence", "5%",
        "--prior", "10%", "--bootstrap", 200, "--seed", 3, "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    metrics = [
        Mean(name="gmv", column="gmv"),
        Count(name="clicks", column="clicks", role="guardrail", margin=0.02),
        Mean(name="spent", column="spent", role="guardrail", direction="decrease"),
    ]
    source = UserTable(str(path), segment="country")
    expected = analyze(source, metrics, "0", "1", equivalence=0.05, prior=Prior(0.0, 0.1), resamples=200, seed=3)
    assert reports_of(done)[0] == expected
    shown = " ".join(run("analyze", path, "--control", 0, "--mean", "gmv", "--prior", "10%").stdout.split())
    assert "under a normal prior of 0 ± 10 %, the lift is" in shown


def test_a_look_of_a_design_is_that_of_python(path: Path) -> None:
    done = run("analyze", path, "--control", 0, "--mean", "gmv", "--planned-units", 9000, "--spending", "pocock",
               "--earlier-looks", "500,1200", "--last-look", "--json")  # fmt: skip
    assert done.exit_code == 0, done.output
    design = Design(9000, (500, 1200), "pocock", last=True)
    expected = analyze(UserTable(str(path)), [Mean(name="gmv", column="gmv")], "0", "1", design=design)
    assert json.loads(done.stdout) == [json.loads(to_json(expected))]


def test_every_arm_is_compared_with_the_control_and_each_has_its_page(path: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    arguments = ("analyze", path, "--control", "DE", "--variant", "country", "--mean", "gmv")
    done = run(*arguments, "--html", page, "--json")
    reports = json.loads(done.stdout)
    assert [(r["control"], r["treatment"]) for r in reports] == [("DE", "FR"), ("DE", "IT")]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report-FR.html", "report-IT.html"]
    one = json.loads(run(*arguments, "--treatment", "IT", "--json").stdout)
    assert [r["treatment"] for r in one] == ["IT"]
    assert one[0]["metrics"][0]["p"] == reports[1]["metrics"][0]["p"]
    assert run(*arguments, "--markdown").stdout.count("# ") >= 4


def test_rates_of_the_file_convert_every_metric_in_money_that_it_declares(tmp_path: Path) -> None:
    data = pd.DataFrame(
        {"variant": ["a", "b"] * 20, "net": 100, "gross": 200, "currency": ["EUR", "EUR", "USD", "USD"] * 10}
    )
    data["net"] += np.arange(40)
    data.to_csv(tmp_path / "u.csv", index=False)
    (tmp_path / "m.yaml").write_text(
        "metrics:\n  - {kind: mean, name: net, column: net, unit: money}\n"
        "  - {kind: ratio, name: gross, numerator: gross, denominator: net, unit: money}\n"
        "rates: {base: EUR, as_of: 2026-06-01, rates: {USD: 0.5}}\n"
    )
    done = run("analyze", tmp_path / "u.csv", "--control", "a", "--metrics", tmp_path / "m.yaml", "--currency-column",
               "currency", "--json")  # fmt: skip
    report = reports_of(done)[0]
    factor = np.where(data.currency == "USD", 0.5, 1.0)
    a = data.variant == "a"
    assert report.metric("net").control == pytest.approx((data.net * factor)[a].mean())
    assert report.metric("gross").control == pytest.approx(
        (data.gross * factor)[a].sum() / (data.net * factor)[a].sum()
    )
    assert report.data.currency == "EUR"


def test_a_select_over_files_stands_for_a_table(path: Path, data: pd.DataFrame) -> None:
    query = f"SELECT variant, sum(gmv) AS gmv FROM '{path}' GROUP BY variant, id"
    done = run("analyze", query, "--control", 0, "--mean", "gmv", "--json")
    assert done.exit_code == 0, done.output
    report = reports_of(done)[0]
    assert report.metric("gmv").control == pytest.approx(data.gmv[data.variant == 0].mean())
    assert query in report.data.sql[0]
    assert report.data.source == "the query"


def test_a_table_in_a_database_gives_the_same_and_metrics_may_come_from_yaml(
    data: pd.DataFrame, path: Path, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'shop.db'}"
    data.to_sql("users", create_engine(url), index=False, chunksize=100)
    yaml = tmp_path / "metrics.yaml"
    yaml.write_text("metrics: [{kind: mean, name: gmv, column: gmv, role: goal}]", encoding="utf-8")
    result = [
        json.loads(run("analyze", *where, "--control", 0, "--metrics", yaml, "--count", "clicks", "--json").stdout)[0]
        for where in ((path,), ("users", "--database", url))
    ]
    for ours, theirs in zip(*(report["metrics"] for report in result), strict=True):
        assert ours["p"] == pytest.approx(theirs["p"], rel=1e-9)
        assert ours["lift"] == pytest.approx(theirs["lift"], rel=1e-9)


def test_tables_and_markdown_are_printed_and_a_failed_check_is_exit_code_1(path: Path) -> None:
    table = run("analyze", path, "--control", 0, "--mean", "gmv")
    assert table.exit_code == 0
    assert "Keep running" in table.stdout
    untrusted = run("analyze", path, "--control", 0, "--mean", "gmv", "--split", "0=0.9,1=0.1", "--markdown")
    assert untrusted.exit_code == 1
    assert untrusted.stdout.startswith("# ")
    assert "cannot trust" in untrusted.stdout


def test_simulate_gives_the_simulation_of_python(path: Path, data: pd.DataFrame, tmp_path: Path) -> None:
    picture = tmp_path / "sim.svg"
    arguments = ("simulate", path, "--mean", "gmv", "--lift", 0.1, "--runs", 60, "--seed", 4, "--where", "variant=0")
    done = run(*arguments, "--picture", picture, "--json")
    assert done.exit_code == 0, done.output
    units = {"gmv": data.gmv[data.variant == 0].to_numpy()}
    expected = simulate(units, [Mean(name="gmv", column="gmv")], lifts=[0.1], runs=60, seed=4)
    document = json.loads(done.stdout)
    assert [o["rejected"] for o in document["outcomes"]] == [o.rejected for o in expected.outcomes]
    assert document["units"] == int((data.variant == 0).sum())
    assert "<svg" in picture.read_text(encoding="utf-8")
    assert "| gmv | +10.0%" in run(*arguments, "--markdown").stdout
    assert "false-positive rate" in " ".join(run(*arguments).stdout.split())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ratio", "clicks"], "must look like clicks/impressions"),
        (["--ratio", "clicks/impressions:rate"], "only `share` may follow"),
        (["--goal", "x", "--mean", "gmv"], "'x' is not a metric that this option applies to"),
        (["--quantile", "gmv@x"], "'x' is not a number"),
        (["--cap", "gwv=p99", "--mean", "gmv"], "'gwv' is not a metric that this option applies to"),
        (["--cap", "gmv=p99:all", "--mean", "gmv"], "only `nonzero`"),
        (["--covariate", "gmv_pre", "--ratio", "clicks/impressions"], "name the metric (clicks/impressions=ctr_pre)"),
        (["--guardrail", "ctr=2%", "--mean", "gmv"], "'ctr' is not a metric that this option applies to"),
        (["--guardrail", "gmv=much", "--mean", "gmv"], "'much' is not a number"),
        (["--lower-is-better", "x", "--mean", "gmv"], "'x' is not a metric that this option applies to"),
        (["--mean", "gmv", "--mean", "gmv"], "'gmv' is given twice"),
        (["--covariate", "ctr=x", "--mean", "gmv"], "'ctr' is not a metric that this option applies to"),
        (["--mean", "gmv", "--split", "0=90%,1=10"], "give all weights in % or none"),
        (["--mean", "gmv", "--split", "0=9,0=1"], "the arm '0' is given twice"),
        (["--mean", "gmv", "--treatment", "1", "--treatment", "1"], "'1' is given twice"),
        (["--mean", "gmv", "--treatment", "0"], "Control and treatment are both '0'"),
        (["--mean", "gmv", "--treatment", "2"], "'2' is not an arm of the data"),
        (["--mean", "gmv", "--prior", "1e200"], "Write 1e200% or 1e+202%"),
        (["--mean", "gmv", "--prior", "0"], "The prior's sd is 0.0"),
        (["--mean", "gmv", "--precision", "2"], "Write 2% or 200%"),
        (["--mean", "gmv", "--seed", "-1"], "--seed"),
        (["--mean", "gmv", "--alpha", "1e-320"], "alpha is 1e-320, and must be"),
        (["--mean", "gmv", "--currency", "euro"], "'euro' is not a currency code"),
        (["--mean", "gmv", "--planned-units", "9000", "--spending", "hsd=-710"], "gamma is -710.0, and must be"),
        (["--mean", "gmv", "--where", "country"], "is not a comparison"),
        (["--mean", "gmv", "--where", "country==DE"], "is not a comparison"),
        (["--mean", "gmv", "--where", "country=DE,"], "has an empty value"),
        (["--mean", "gmv", "--where", "impressions<3,4"], "only = and != take a list"),
        (["--mean", "gmv", "--where", "contry=DE"], "no column 'contry'. Did you mean 'country'"),
        (["--mean", "gmv", "--segment", "contry"], "no column 'contry'. Did you mean 'country'"),
        (["--mean", "gmv", "--where", "impressions>=many"], "compares it with 'many'. Give a number"),
        (["--mean", "gmv", "--interval", "exact"], "not one of 'fieller', 'delta', 'log'"),
        (["--mean", "gmv", "--spending", "pocock"], "it needs --planned-units"),
        (["--mean", "gmv", "--last-look"], "it needs --spending"),
        (["--mean", "gmv", "--planned-units", "9", "--spending", "pocock", "--earlier-looks", "1.5"], "must look like"),
        (["--mean", "gmv", "--database", "nosql://user:secret@host/db"], "no engine for this URL"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_names_the_option(path: Path, options: list[str], message: str) -> None:
    done = run("analyze", path, "--control", 0, *options)
    assert exit_code(done) == 2
    assert message in message_of(done)
    assert "secret" not in done.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--control", "9", "--mean", "gmv"], r"control '9' is not an arm of the data\. Its arms: '0', '1'"),
        (["--control", "0", "--mean", "gmw"], r"no column 'gmw'\. Did you mean 'gmv'"),
        (["--control", "0"], "No metrics were given"),
        (["--control", "0", "--mean", "gmv", "--cap", "gmv=0"], "would leave nothing above 0"),
        (["--control", "DE", "--variant", "country", "--treatment", "PL", "--mean", "gmv"], "'PL' is not an arm"),
        (["--control", "DE", "--variant", "country", "--where", "country=DE", "--mean", "gmv"], "no arm but 'DE'"),
        (["--control", "0", "--mean", "gmv", "--bootstrap", "50"], "resamples is 50, and must be a whole number"),
        (["--control", "0", "--mean", "gmv", "--equivalence", "200%"], "equivalence is 2.0, and must be"),
        (
            ["--control", "0", "--mean", "gmv", "--planned-units", "9", "--spending", "even"],
            "no spending function 'even'",
        ),
        (["--control", "0", "--mean", "gmv", "--prior", "0"], "sd is 0.0, and must be above 0"),
    ],
)
def test_what_cannot_be_computed_is_an_error_of_the_analysis(path: Path, options: list[str], message: str) -> None:
    """`sagelift.commands.failures` turns these into one sentence and exit code 3."""
    done: Any = run("analyze", path, *options)
    with pytest.raises(AnalysisError, match=message):
        raise done.exception


def test_a_prior_that_is_almost_flat_is_the_flat_one(path: Path) -> None:
    (wide,) = reports_of(run("analyze", path, "--control", 0, "--mean", "gmv", "--prior", "1e200%", "--json"))
    metric = wide.metric("gmv")
    assert metric.posterior is not None
    assert metric.posterior.lift == pytest.approx(metric.lift)


def test_notes_are_in_the_json_as_on_the_page(path: Path) -> None:
    arguments = ("analyze", path, "--control", 0, "--mean", "gmv", "--prior", "10%", "--cap", "gmv=p99:nonzero")
    done = run(*arguments, "--json")
    (printed,), (report,) = json.loads(done.stdout), reports_of(done)
    assert any("Without the cap" in note for note in printed["notes"])
    assert any("normal prior" in note for note in printed["notes"])
    assert printed["notes"] == wording.notes(report)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--picture", "x.xyz"], "must end with .svg, .png or .pdf"),
        (["--seed", "-1"], "--seed"),
        (["--lift", "5"], "'5' would be 500%. Write 5% or 500%"),
    ],
)
def test_wrong_options_of_a_simulation_are_exit_code_2(path: Path, options: list[str], message: str) -> None:
    refused = run("simulate", path, "--mean", "gmv", "--runs", 20, *options)
    assert exit_code(refused) == 2
    assert message in message_of(refused)


def test_a_simulation_with_an_almost_empty_arm_says_how_often_nothing_was_defined(path: Path) -> None:
    done = run("simulate", path, "--mean", "gmv", "--runs", 20, "--share", 0.0001, "--json")
    assert done.exit_code == 0, done.output
    assert all(outcome["undefined"] > 0 for outcome in json.loads(done.stdout)["outcomes"])


def metrics_of(path: Path, *options: object) -> list[tuple[str, str, float | None]]:
    """Name, role and margin of each metric of a report with these options."""
    done = run("analyze", path, "--control", 0, *options, "--json")
    assert done.exit_code == 0, done.output
    return [(m.name, m.role, m.margin.margin if m.margin else None) for m in reports_of(done)[0].metrics]


def test_metrics_keep_the_order_of_the_command_line_across_kinds(path: Path) -> None:
    assert metrics_of(
        path, "--proportion", "gmv", "--mean", "gmv", "--ratio", "gmv/clicks", "--count=clicks", "--mean", "spent",
        "--quantile", "spent@0.9", "--proportion", "clicks",
    ) == [
        ("gmv > 0", "goal", None),
        *((name, "secondary", None) for name in ("gmv", "gmv/clicks", "clicks", "spent", "spent@0.9", "clicks > 0")),
    ]  # fmt: skip


def test_a_guardrail_never_becomes_a_goal_and_keeps_its_margin(path: Path) -> None:
    assert metrics_of(path, "--mean", "gmv", "--guardrail", "gmv=20%") == [("gmv", "guardrail", 0.2)]
    assert metrics_of(path, "--mean", "gmv", "--count", "clicks", "--guardrail", "gmv=20%") == [
        ("gmv", "guardrail", 0.2),
        ("clicks", "goal", None),
    ]
    refused = run("analyze", path, "--control", 0, "--mean", "gmv", "--guardrail", "gmv", "--goal", "gmv")
    assert refused.exit_code == 2
    assert "'gmv' is a guardrail, and a guardrail cannot be a goal" in message_of(refused)


def test_goals_are_named_and_a_metric_is_found_by_the_name_shown(path: Path, tmp_path: Path) -> None:
    assert metrics_of(
        path, "--mean", "spent", "--count", "clicks", "--proportion", "gmv", "--goal", "clicks", "--goal", "gmv",
        "--guardrail", "spent",
    ) == [("spent", "guardrail", None), ("clicks", "goal", None), ("gmv > 0", "goal", None)]  # fmt: skip
    for shown in ("clicks", "clicks > 0"):
        assert metrics_of(path, "--mean", "gmv", "--proportion", "clicks", "--guardrail", f"{shown}=2%") == [
            ("gmv", "goal", None),
            ("clicks > 0", "guardrail", 0.02),
        ]
    yaml = tmp_path / "m.yaml"
    yaml.write_text(
        "metrics:\n  - {kind: mean, name: gmv, label: GMV per user, column: gmv, role: guardrail, margin: 0.1}\n"
        "  - {kind: count, name: clicks, label: Clicks per user, column: clicks, role: goal}\n"
    )
    assert metrics_of(
        path, "--metrics", yaml, "--mean", "spent", "--guardrail", "GMV per user", "--goal", "spent"
    ) == [("gmv", "guardrail", 0.1), ("clicks", "secondary", None), ("spent", "goal", None)]  # fmt: skip


@pytest.mark.parametrize("ratio", ["impressions/clicks", "gmv/clicks", "spent/clicks"])
def test_the_rule_of_a_share_applies_only_to_a_declared_share(path: Path, ratio: str) -> None:
    done = run("analyze", path, "--control", 0, "--ratio", ratio, "--json")
    assert done.exit_code == 0
    assert reports_of(done)[0].check("impossible_values").status == "ok"
    (declared,) = reports_of(run("analyze", path, "--control", 0, "--ratio", f"{ratio}:share", "--json"))
    assert declared.check("impossible_values").status == "fail"
    assert "do not declare the ratio a share" in declared.verdict.reasons[0]
    assert declared.metrics[0].unit == "share"


def test_a_failed_split_says_how_to_state_another_plan(path: Path, data: pd.DataFrame, tmp_path: Path) -> None:
    data[(data.variant == 0) | (data.id % 9 == 0)].to_parquet(tmp_path / "uneven.parquet")
    shown = message_of(run("analyze", tmp_path / "uneven.parquet", "--control", 0, "--mean", "gmv"))
    assert "If the plan was another split, state it (--split" in shown

"""`sagelift analyze`, `report`, `simulate`, `plan`: what Python would give, and one sentence where it cannot be."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
import typer
from click.testing import Result
from sqlalchemy import create_engine
from typer.testing import CliRunner

from analysis.bayes import Prior
from analysis.columns import Cap, Filter
from analysis.designs import Design
from analysis.errors import AnalysisError
from analysis.metrics import Count, Mean, Proportion, Quantile, Ratio
from analysis.plan import Plan, plan
from analysis.render.json import from_json, to_json
from analysis.report import analyze
from analysis.results import DesignUsed
from analysis.simulation import simulate
from analysis.sources import UserTable
from sagelift.commands import analyze as analysis_commands
from sagelift.commands.cli import app


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def data() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    n = 2000
    views = rng.integers(1, 30, n)
    return pd.DataFrame(
        {
            "id": np.arange(n),
            "variant": rng.integers(0, 2, n),
            "gmv": np.where(rng.random(n) < 0.3, np.exp(rng.normal(8, 1, n)).round(), 0),
            "gmv_pre": np.exp(rng.normal(8, 1, n)).round(),
            "clicks": rng.binomial(views, 0.2),
            "impressions": views,
            "spent": rng.lognormal(0, 1, n),
            "country": rng.choice(["DE", "FR", "IT"], n),
        }
    )


@pytest.fixture(scope="module")
def path(data: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "users.parquet"
    data.to_parquet(path)
    return path


def test_the_example_of_the_documentation_gives_the_report_of_python(path: Path) -> None:
    done = run("analyze", path, "--variant", "variant", "--control", 0, "--mean", "gmv", "--ratio",
               "clicks/impressions", "--covariate", "gmv_pre", "--json")  # fmt: skip
    assert done.exit_code == 0, done.output
    metrics = [
        Mean(name="gmv", column="gmv", covariate="gmv_pre"),
        Ratio(name="clicks/impressions", numerator="clicks", denominator="impressions"),
    ]
    assert from_json(done.stdout) == analyze(UserTable(path), metrics, "0", "1")


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
    assert json.loads(done.stdout) == json.loads(to_json(expected))
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
        Mean(name="spent", column="spent", role="guardrail", direction="decrease"),
        Count(name="clicks", column="clicks", role="guardrail", margin=0.02),
    ]
    source = UserTable(str(path), segment="country")
    expected = analyze(source, metrics, "0", "1", equivalence=0.05, prior=Prior(0.0, 0.1), resamples=200, seed=3)
    assert from_json(done.stdout) == expected
    shown = " ".join(run("analyze", path, "--control", 0, "--mean", "gmv", "--prior", "10%").stdout.split())
    assert "under a normal prior of 0 ± 10 %, the lift is" in shown


def test_a_look_of_a_design_and_the_looks_of_a_plan_are_those_of_python(path: Path) -> None:
    done = run("analyze", path, "--control", 0, "--mean", "gmv", "--planned-units", 9000, "--spending", "pocock",
               "--earlier-looks", "500,1200", "--last-look", "--json")  # fmt: skip
    assert done.exit_code == 0, done.output
    design = Design(9000, (500, 1200), "pocock", last=True)
    expected = analyze(UserTable(str(path)), [Mean(name="gmv", column="gmv")], "0", "1", design=design)
    assert json.loads(done.stdout) == json.loads(to_json(expected))
    planned = run("plan", path, "--mean", "gmv", "--looks", 3, "--spending", "hsd=-2", "--json")
    source = UserTable(str(path), variant=None)
    wanted = plan(source, [Mean(name="gmv", column="gmv")], [0.02, 0.05, 0.1], looks=3, spending="hsd=-2")
    assert msgspec.json.decode(planned.stdout, type=Plan) == wanted


def test_every_arm_is_compared_with_the_control_and_each_has_its_page(path: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    arguments = ("analyze", path, "--control", "DE", "--variant", "country", "--mean", "gmv")
    done = run(*arguments, "--html", page, "--json")
    reports = json.loads(done.stdout)
    assert [(r["control"], r["treatment"]) for r in reports] == [("DE", "FR"), ("DE", "IT")]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report-FR.html", "report-IT.html"]
    one = json.loads(run(*arguments, "--treatment", "IT", "--json").stdout)
    assert one["treatment"] == "IT"
    assert one["metrics"][0]["p"] == reports[1]["metrics"][0]["p"]
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
    found = from_json(done.stdout)
    factor = np.where(data.currency == "USD", 0.5, 1.0)
    a = data.variant == "a"
    assert found.metric("net").control == pytest.approx((data.net * factor)[a].mean())
    assert found.metric("gross").control == pytest.approx((data.gross * factor)[a].sum() / (data.net * factor)[a].sum())
    assert found.data.currency == "EUR"


def test_a_select_over_files_stands_for_a_table(path: Path, data: pd.DataFrame) -> None:
    query = f"SELECT variant, sum(gmv) AS gmv FROM '{path}' GROUP BY variant, id"
    done = run("analyze", query, "--control", 0, "--mean", "gmv", "--json")
    assert done.exit_code == 0, done.output
    found = from_json(done.stdout)
    assert found.metric("gmv").control == pytest.approx(data.gmv[data.variant == 0].mean())
    assert query in found.data.sql[0]
    assert found.data.source == "the query"


def test_report_reads_the_experiment_of_the_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The same report as Python gives, with a cut-off, a segment, metrics of a file and what else may be asked."""
    from experiments.store import ExperimentStore

    engine = create_engine(f"sqlite:///{tmp_path / 'shop.db'}")
    store = ExperimentStore(engine)
    store.create_all()
    store.create_experiment("similar", actor="test")
    day, start = 86_400_000_000, 1_780_272_000_000_000
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE customer (unit_id TEXT, country TEXT)")
        for i in range(60):
            arm = ("sum", "itemsage")[i % 2]
            connection.exec_driver_sql(
                "INSERT INTO first_exposure_by_phase (experiment, phase, unit_id, arm, first_time) "
                "VALUES (?, 1, ?, ?, ?)",
                ("similar", f"u{i}", arm, start + i * day // 10),
            )
            connection.exec_driver_sql("INSERT INTO customer VALUES (?, ?)", (f"u{i}", "DE" if i % 3 else "FR"))

    class FakeServices:
        def __init__(self, settings: object) -> None:
            self.experiments = type("Store", (), {"engine": engine})

        def __enter__(self) -> FakeServices:
            return self

        def __exit__(self, *rest: object) -> None:
            pass

    monkeypatch.setattr("sagelift.services.Services", FakeServices)
    app = typer.Typer()
    app.command()(analysis_commands.report)

    def report(*arguments: object) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    done = report("similar", "--control", "sum", "--segment", "customer.country", "--as-of", "2026-06-05", "--json")
    found = from_json(done.stdout)
    assert found.treatment == "itemsage"
    assert found.data.units == {"itemsage": 20, "sum": 21}
    assert found.data.cut_off == "2026-06-05T00:00:00+00:00"
    assert found.data.segment == "country"
    assert [m.name for m in found.metrics][:2] == ["gmv_per_user", "clicks_per_user"]
    assert [age.end_days for age in found.metrics[0].ages] == [
        2.0
    ]  # in sevenths of the window, as far as they are over
    asked = ("similar", "--control", "sum", "--as-of", "2026-06-05", "--json")
    assert [age.end_days for age in from_json(report(*asked, "--by-age", 0.5).stdout).metrics[0].ages][:2] == [0.5, 1.0]
    assert not any(metric.ages for metric in from_json(report(*asked, "--by-age", 0).stdout).metrics)
    looked = from_json(report(*asked, "--planned-units", 90, "--spending", "pocock", "--earlier-looks", "20").stdout)
    assert looked.design == DesignUsed(spending="pocock", planned_units=90, earlier=[20], look=2, units=41, ended=False)
    for wrong, message in (
        (["--as-of", "soon"], "must look like 2026"),
        (["--segment", "customer."], "customer.country"),
    ):
        refused = report("similar", "--control", "sum", *wrong)
        assert refused.exit_code == 2
        assert message in " ".join(refused.output.replace("│", " ").split())
    engine.dispose()


def test_a_table_in_a_database_gives_the_same_and_metrics_may_come_from_yaml(
    data: pd.DataFrame, path: Path, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'shop.db'}"
    data.to_sql("users", create_engine(url), index=False, chunksize=100)
    yaml = tmp_path / "metrics.yaml"
    yaml.write_text("metrics: [{kind: mean, name: gmv, column: gmv, role: goal}]", encoding="utf-8")
    found = [
        json.loads(run("analyze", *where, "--control", 0, "--metrics", yaml, "--count", "clicks", "--json").stdout)
        for where in ((path,), ("users", "--database", url))
    ]
    for ours, theirs in zip(*(report["metrics"] for report in found), strict=True):
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
    found = json.loads(done.stdout)
    assert [o["rejected"] for o in found["outcomes"]] == [o.rejected for o in expected.outcomes]
    assert found["units"] == int((data.variant == 0).sum())
    assert "<svg" in picture.read_text(encoding="utf-8")
    assert "| gmv | +10.0%" in run(*arguments, "--markdown").stdout
    assert "false-positive rate" in " ".join(run(*arguments).stdout.split())


def test_plan_gives_the_plan_of_python(path: Path) -> None:
    app = typer.Typer()
    app.command()(analysis_commands.plan)
    done = CliRunner().invoke(
        app, [str(path), "--mean", "gmv", "--covariate", "gmv_pre", "--lift", "5%", "--units", "9000", "--json"]
    )
    assert done.exit_code == 0, done.output
    expected = plan(
        UserTable(str(path), variant=None),
        [Mean(name="gmv", column="gmv", covariates=("gmv_pre",))],
        [0.05],
        units=9000,
    )
    assert msgspec.json.decode(done.stdout, type=Plan) == expected
    shown = CliRunner().invoke(app, [str(path), "--mean", "gmv", "--markdown"]).stdout
    assert "units for +2.0% | units for +5.0% | units for +10.0%" in shown


def test_every_option_that_the_documentation_names_is_there() -> None:
    app = typer.Typer()
    for command in ("analyze", "report", "simulate", "plan"):
        app.command(command)(getattr(analysis_commands, command))
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    known = {name: {opt for parameter in c.params for opt in parameter.opts} for name, c in commands.items()}
    found = set()
    for page in (Path(__file__).parents[3] / "docs" / "analysts").glob("*.md"):
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.S):
            for call in re.split(r"^sagelift ", block, flags=re.M)[1:]:
                name = call.split()[0]
                used = set(re.findall(r"(?<!\S)--[a-z-]+", call))
                assert used <= known[name], (page.name, name, used - known[name])
                found.add(name)
    assert found == set(known)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ratio", "clicks"], "must look like clicks/impressions"),
        (["--quantile", "gmv@x"], "'x' is no number"),
        (["--cap", "gwv=p99", "--mean", "gmv"], "'gwv' is none of the metrics"),
        (["--cap", "gmv=p99:all", "--mean", "gmv"], "only `nonzero`"),
        (["--covariate", "gmv_pre", "--ratio", "clicks/impressions"], "name the metric that it is for"),
        (["--guardrail", "ctr=2%", "--mean", "gmv"], "'ctr' is none of the metrics"),
        (["--guardrail", "gmv=much", "--mean", "gmv"], "'much' is no number"),
        (["--lower-is-better", "x", "--mean", "gmv"], "'x' is none of the metrics"),
        (["--mean", "gmv", "--mean", "gmv"], "'gmv' is asked for twice"),
        (["--covariate", "ctr=x", "--mean", "gmv"], "'ctr' is none of the metrics"),
        (["--mean", "gmv", "--where", "country"], "is no comparison"),
        (["--mean", "gmv", "--interval", "exact"], "none of fieller, delta, log"),
        (["--mean", "gmv", "--spending", "pocock"], "it needs --planned-units"),
        (["--mean", "gmv", "--last-look"], "it needs --spending"),
        (["--mean", "gmv", "--planned-units", "9", "--spending", "pocock", "--earlier-looks", "1.5"], "must look like"),
        (["--mean", "gmv", "--database", "nosql://user:secret@host/db"], "no engine for this URL"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_names_the_option(path: Path, options: list[str], message: str) -> None:
    done = run("analyze", path, "--control", 0, *options)
    assert done.exit_code == 2
    assert message in " ".join(done.output.replace("│", " ").split())
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
    """`sagelift.commands.cli.main` turns these into one sentence and exit code 3."""
    done: Any = run("analyze", path, *options)
    with pytest.raises(AnalysisError, match=message):
        raise done.exception

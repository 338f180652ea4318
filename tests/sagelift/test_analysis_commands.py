"""`sagelift analyze` and `sagelift simulate` on files: what Python would give, and one sentence where it cannot be."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import Result
from sqlalchemy import create_engine
from typer.testing import CliRunner

from analysis.columns import Cap, Filter
from analysis.errors import AnalysisError
from analysis.metrics import Count, Mean, Proportion, Quantile, Ratio
from analysis.render.json import from_json, to_json
from analysis.report import analyze
from analysis.simulation import simulate
from analysis.sources import UserTable
from sagelift.cli import app


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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ratio", "clicks"], "must look like clicks/impressions"),
        (["--quantile", "gmv@x"], "'x' is no number"),
        (["--cap", "gwv=p99", "--mean", "gmv"], "'gwv' is none of the metrics"),
        (["--cap", "gmv=p99:all", "--mean", "gmv"], "only `nonzero`"),
        (["--covariate", "ctr=x", "--mean", "gmv"], "'ctr' is none of the metrics"),
        (["--mean", "gmv", "--where", "country"], "is no comparison"),
        (["--mean", "gmv", "--interval", "exact"], "none of fieller, delta, log"),
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
        (["--control", "DE", "--variant", "country", "--mean", "gmv"], "there are 2 arms: FR, IT. Name one"),
    ],
)
def test_what_cannot_be_computed_is_an_error_of_the_analysis(path: Path, options: list[str], message: str) -> None:
    """`sagelift.cli.main` turns these into one sentence and exit code 3."""
    done: Any = run("analyze", path, *options)
    with pytest.raises(AnalysisError, match=message):
        raise done.exception

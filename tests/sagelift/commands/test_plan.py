"""`sagelift plan`: the plan that Python gives."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from analysis.metrics import Mean
from analysis.plan import Plan, plan
from analysis.sources import UserTable
from tests.sagelift.commands.analysis_commands import exit_code, message_of, run


def test_plan_gives_the_plan_of_python(path: Path) -> None:
    done = run("plan", path, "--mean", "gmv", "--covariate", "gmv_pre", "--lift", "5%", "--units", 9000, "--json")
    assert done.exit_code == 0, done.output
    expected = plan(
        UserTable(str(path), variant=None),
        [Mean(name="gmv", column="gmv", covariates=("gmv_pre",))],
        [0.05],
        units=9000,
    )
    assert msgspec.json.decode(done.stdout, type=Plan) == expected
    shown = run("plan", path, "--mean", "gmv", "--markdown").stdout
    assert "Units for +2.0% | Units for +5.0% | Units for +10.0%" in shown


def test_the_looks_of_a_plan_are_those_of_python(path: Path) -> None:
    planned = run("plan", path, "--mean", "gmv", "--looks", 3, "--spending", "hsd=-2", "--json")
    source = UserTable(str(path), variant=None)
    expected = plan(source, [Mean(name="gmv", column="gmv")], [0.02, 0.05, 0.1], looks=3, spending="hsd=-2")
    assert msgspec.json.decode(planned.stdout, type=Plan) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--lift", "5"], "'5' would be 500%. Write 5% or 500%"),
        (["--alpha", "1e-320"], "alpha is 1e-320, and must be"),
        (["--share", "0"], "share is 0.0, and must be"),
        (["--looks", "3", "--spending", "hsd=-710"], "gamma is -710.0, and must be"),
        (["--where", "contry=DE"], "no column 'contry'. Did you mean 'country'"),
    ],
)
def test_wrong_options_of_a_plan_are_exit_code_2(path: Path, options: list[str], message: str) -> None:
    refused = run("plan", path, "--mean", "gmv", *options)
    assert exit_code(refused) == 2
    assert message in message_of(refused)

"""A report runs the checks that apply to its metrics and arms, the most serious subject first."""

from analysis.checks.check import Check
from analysis.checks.run import run_checks
from analysis.metrics import Declared, Mean, Quantile, merged_needs
from analysis.sources import UserTable
from tests.analysis.reports import users

GMV = Mean(name="gmv", column="gmv")
MEDIAN = Quantile(name="median", column="gmv")


def checks(metrics: list[Declared], units: int = 400, split: dict[str, float] | None = None) -> list[Check]:
    collected = UserTable(users(n=units)).collect(merged_needs(metrics))
    control, treatment = (collected.aggregates.moments(arm) for arm in ("a", "b"))
    return run_checks(collected.aggregates, collected.facts, metrics, control, treatment, split or {"a": 0.5, "b": 0.5})


def test_the_sample_ratio_comes_first_and_fails_on_another_split() -> None:
    assert (checks([GMV])[0].name, checks([GMV])[0].status) == ("sample_ratio", "ok")
    assert checks([GMV], split={"a": 0.9, "b": 0.1})[0].status == "fail"


def test_checks_of_means_do_not_run_for_quantiles_alone() -> None:
    names = [check.name for check in checks([GMV, MEDIAN])]
    only_median = [check.name for check in checks([MEDIAN])]
    assert set(only_median) < set(names)
    assert {"variance", "heavy_tail"} <= set(names) - set(only_median)


def test_checks_whose_facts_are_unknown_are_left_out() -> None:
    """A table with one row per user knows no late events and no refunds."""
    names = {check.name for check in checks([GMV])}
    assert not names & {"late_data", "refunds_after_window", "immature_units"}
    assert len(names) == len(checks([GMV])), "each check runs once"

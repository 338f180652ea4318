"""Groups of options become sources and arguments of the analysis, or wrong usage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import typer
from sqlalchemy import create_engine

from analysis.bayes import Prior
from analysis.metrics import Mean, merged_needs
from analysis.sequential.design import Design
from sagelift.commands.analysis_options import ArmOptions, MonitoringOptions, StatisticsOptions, TableOptions

NEEDS = merged_needs([Mean(name="gmv", column="gmv")])


def test_a_file_and_a_database_give_the_same_users(data: pd.DataFrame, path: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shop.db'}"
    engine = create_engine(url)
    data.to_sql("users", engine, index=False)
    engine.dispose()
    counts = []
    for options in (
        TableOptions(str(path), where=["country=DE"]),
        TableOptions("users", where=["country=DE"], database=url),
    ):
        aggregates = options.source().collect(NEEDS).aggregates
        counts.append({arm: aggregates.count(arm) for arm in aggregates.arms})
    assert counts[0] == counts[1]
    assert sum(counts[0].values()) == (data.country == "DE").sum()


def test_all_filters_apply_together(data: pd.DataFrame, path: Path) -> None:
    source = TableOptions(str(path), where=["country=DE,FR", "gmv>0"]).source(variant=None)
    expected = (data.country.isin(["DE", "FR"]) & (data.gmv > 0)).sum()
    assert source.collect(NEEDS).aggregates.count("all") == expected


@pytest.mark.parametrize("url", ["nonsense", "oracle9://user:hunter2@host/x"])
def test_a_url_without_an_engine_is_wrong_usage_and_is_not_repeated(url: str) -> None:
    with pytest.raises(typer.BadParameter, match="no engine for this URL") as caught:
        TableOptions("users", database=url).source()
    assert "hunter2" not in caught.value.message


def test_a_planned_split_is_optional() -> None:
    assert ArmOptions("a", None).expected_split() is None
    assert ArmOptions("a", None, "a=0.9,b=0.1").expected_split() == {"a": 0.9, "b": 0.1}


def test_statistics_read_shares_and_leave_out_what_was_not_asked_for() -> None:
    default = StatisticsOptions().arguments()
    assert (default["precision"], default["equivalence"], default["prior"]) == (0.02, None, None)
    arguments = StatisticsOptions(equivalence="1%", prior="5%", bootstrap=200, seed=3).arguments()
    assert (arguments["equivalence"], arguments["prior"]) == (0.01, Prior(0.0, 0.05))
    assert (arguments["resamples"], arguments["seed"]) == (200, 3)


def test_monitoring_is_a_fixed_sample_a_confidence_sequence_or_a_design() -> None:
    assert MonitoringOptions().arguments() == {"planned_units": None}
    assert MonitoringOptions(planned_units=9000).arguments() == {"planned_units": 9000}
    design = MonitoringOptions(9000, "pocock", "3000, 6000", last_look=True).arguments()
    assert design == {"design": Design(9000, (3000, 6000), "pocock", True)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"earlier_looks": "10"}, "it needs --spending"),
        ({"last_look": True}, "it needs --spending"),
        ({"spending": "pocock"}, "it needs --planned-units"),
        ({"spending": "pocock", "planned_units": 10, "earlier_looks": "few"}, "'few' is not a number"),
    ],
)
def test_an_option_that_lacks_another_one_is_wrong_usage(options: dict[str, Any], message: str) -> None:
    with pytest.raises(typer.BadParameter, match=message):
        MonitoringOptions(**options).arguments()

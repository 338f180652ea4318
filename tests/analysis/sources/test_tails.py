"""Bounds on tails and rules hold, and are replaced by counts where they say too little."""

from pathlib import Path

import numpy as np

from analysis.aggregates import FEW_NONZERO, Column, Rule
from analysis.metrics import Mean, Ratio
from analysis.sources import UserTable
from tests.analysis.sources.builders import collect, frame, parquet


def test_bounds_on_tails_hold_and_are_counted_where_they_say_too_little(tmp_path: Path) -> None:
    metric = (Mean(name="gmv", column="gmv"),)
    data = frame(20_000)
    exact, bounded = (
        collect(s, metric).moments("a").tails[Column("gmv")] for s in (UserTable(data), parquet(data, tmp_path))
    )
    assert not bounded.exact
    assert FEW_NONZERO <= bounded.nonzero <= exact.nonzero
    assert bounded.largest >= exact.largest
    few = data.assign(gmv=np.where(np.arange(20_000) < 150, data.pre, 0))
    assert (
        collect(parquet(few, tmp_path), metric).moments("a").tails == collect(UserTable(few), metric).moments("a").tails
    )
    heavy = data.assign(gmv=np.where(np.arange(20_000) == 7, 10**8, data.pre))
    assert collect(parquet(heavy, tmp_path), metric).moments("a").tails == (
        collect(UserTable(heavy), metric).moments("a").tails
    )


def test_rules_are_counted_wherever_statistics_do_not_settle_them(tmp_path: Path) -> None:
    data = frame(400)
    data.loc[[3, 5], "clicks"] = data.views + 1
    data.loc[7, "clicks"] = -1
    metric = (Ratio(name="ctr", numerator="clicks", denominator="views", unit="share"),)
    clicks, views = Column("clicks"), Column("views")
    for source in (UserTable(data), parquet(data, tmp_path)):
        collected = collect(source, metric)
        broken = [collected.broken(rule) for rule in (Rule(clicks, views), Rule(clicks), Rule(views))]
        assert broken == [2, 1, 0]

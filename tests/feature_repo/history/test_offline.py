"""Feast's point-in-time joins on the history use event times and, on request, arrival times too."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.metrics import Mean
from analysis.report import analyze
from analysis.sources import UserTable
from feature_repo.recent import Engagement
from feature_repo.store import ProductFeatureStore
from feature_repo.times import to_microseconds
from tests.feature_repo.builders import NOON, make_product

PAGE = Path(__file__).parents[3] / "docs" / "jobs" / "features.md"
HOUR = timedelta(hours=1)
pytestmark = pytest.mark.filterwarnings("ignore:fetch_:DeprecationWarning")


def test_a_late_event_is_joined_by_its_own_time_only_after_its_arrival(store: Any) -> None:
    store.write_features([make_product("a", 1)])
    then = datetime.now(UTC)
    store.write_features([make_product("a", 2, event_time=NOON + HOUR)])
    moments = [then, datetime.now(UTC), NOON - HOUR]
    labels = pd.DataFrame({"row": range(3), "product_id": "a", "event_timestamp": pd.to_datetime(moments)})

    def titles(**known: bool) -> list[Any]:
        result = store.feast.get_historical_features(labels, ["product_text:title"], **known).to_df()
        return [title or None for title in result.sort_values("row")["title"]]

    assert titles() == ["title of a at 2", "title of a at 2", None]
    assert titles(filter_by_created_timestamp=True) == ["title of a at 1", "title of a at 2", None]


def test_the_covariates_of_the_page_are_of_the_time_before_and_narrow_the_interval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Units with 0 to 9 products before first exposure, and many after it, in an order that the join does not keep."""
    rng = np.random.default_rng(0)
    units = [f"u{number:03d}" for number in rng.permutation(200)]
    looked = {unit: int(rng.integers(10)) for unit in units}
    exposed = datetime.now(UTC) + HOUR
    with ProductFeatureStore.open(tmp_path / ".sagelift") as store:
        early = [Engagement(unit, f"p{i}", to_microseconds(NOON) + i) for unit in units for i in range(looked[unit])]
        store.add_engagements(early)
        late = [Engagement(unit, f"q{i}", to_microseconds(exposed) + i) for unit in units for i in range(20)]
        store.add_engagements(late)
    arms = ["control" if i % 2 else "treatment" for i in range(len(units))]
    gmv = [100.0 + 10 * looked[unit] + float(rng.normal()) for unit in units]
    table = pd.DataFrame({"unit_id": units, "first_exposure": exposed, "variant": arms, "gmv": gmv})
    table.to_parquet(tmp_path / "units.parquet")

    monkeypatch.chdir(tmp_path)
    (program,) = re.findall(r"^```python\n(import pandas as pd\n.*?)^```", PAGE.read_text(), re.M | re.S)
    exec(compile(program, str(PAGE), "exec"), {})

    written = pd.read_parquet("units-with-covariates.parquet")
    assert written["unit_id"].tolist() == units
    assert dict(zip(written["unit_id"], written["recent_pre"], strict=True)) == looked

    metric = Mean(name="gmv", column="gmv", covariate="recent_pre")
    adjusted = analyze(UserTable(written), [metric], "control", "treatment").metric("gmv")
    assert adjusted.standard_error < 0.2 * adjusted.unadjusted.standard_error

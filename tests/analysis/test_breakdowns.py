"""A metric over time and by segment adds up to the metric as a whole."""

from typing import Any

import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from analysis.metrics import Mean, shop_metrics
from analysis.report import analyze
from analysis.sources import ExperimentTables, UserTable
from tests.analysis.reports import GMV, with_days


def test_the_last_point_of_the_cumulative_lift_is_the_lift(filled_shop: Any) -> None:
    report = analyze(ExperimentTables(filled_shop.engine, "ranking"), shop_metrics(), "control", "treatment")
    for result in report.metrics:
        last = result.cumulative[-1]
        assert (last.lift, last.low, last.high) == (result.lift, result.low, result.high)
        assert [p.n_control for p in result.cumulative] == sorted(p.n_control for p in result.cumulative)
    enrolled = {arm: sum(e.units[arm] for e in report.data.enrolment) for arm in report.data.units}
    assert enrolled == report.data.units


def test_segments_are_compared_and_corrected_over_all_metrics() -> None:
    metrics = [GMV, Mean(name="clicks", column="clicks")]
    data = with_days()
    report = analyze(UserTable(data, segment="country"), metrics, "a", "b")
    parts = [part for result in report.metrics for part in result.segments]
    expected = multipletests([part.p for part in parts], method="fdr_bh")[1]
    assert [part.p_adjusted for part in parts] == pytest.approx(expected)
    german = data[data.country == "de"]
    theirs = stats.ttest_ind(*(german.gmv[german.variant == arm] for arm in "ba"), equal_var=False)
    assert (parts[0].segment, parts[0].p) == ("de", pytest.approx(theirs.pvalue))
    assert report.metric("gmv").heterogeneity_p is not None
    assert report.check("sample_ratio_by_segment").status == "ok"

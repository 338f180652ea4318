"""The parts of one metric's result: raw, adjusted, capped, quantile, margin, notes."""

from dataclasses import replace
from math import isfinite

import numpy as np
import pytest
from scipy import stats

from analysis.columns import Cap
from analysis.metrics import Mean, Proportion, Quantile, Ratio
from analysis.report import analyze
from analysis.sources import UserTable
from tests.analysis.reports import GMV, numbers, users


def test_nothing_in_a_report_is_ever_nan_or_infinite() -> None:
    """A control near zero (unbounded lift), an empty denominator, a flat metric: null, with a note."""
    rng = np.random.default_rng(1)
    data = users().assign(noise=rng.normal(0, 1, 2000), none=0, flat=7)
    metrics = [
        Mean(name="noise", column="noise"),
        Ratio(name="empty", numerator="clicks", denominator="none"),
        Mean(name="flat", column="flat"),
        Proportion(name="all", column="flat"),
        Mean(name="adjusted", column="gmv", covariate="flat"),
    ]
    report = analyze(UserTable(data), metrics, "a", "b")
    assert all(isfinite(number) for number in numbers(report))
    assert report.metric("noise").low is None
    assert "read the difference" in report.metric("noise").note
    assert report.metric("empty").note == "No effect: the denominator is 0 in the control."
    assert report.metric("adjusted").note == "Not adjusted: the covariate flat does not vary."
    assert report.metric("adjusted").method == "welch+fieller"


def test_raw_capped_and_adjusted_stand_side_by_side() -> None:
    data = users(lift=0.1)
    data["pre"] = data.gmv * 0.5 + 1
    metric = replace(GMV, cap=Cap(upper_quantile=0.95), covariate="pre")
    result = analyze(UserTable(data), [metric], "a", "b").metric("gmv")
    limit = np.sort(data.gmv)[int(np.ceil(0.95 * len(data) - 1e-9)) - 1]
    capped = data.gmv.clip(upper=limit)
    a, b = (data.variant == arm for arm in "ab")
    assert (result.method, result.control) == ("cuped+welch+fieller", pytest.approx(capped[a].mean()))
    assert result.unadjusted is not None
    assert result.unadjusted.p == pytest.approx(stats.ttest_ind(capped[b], capped[a], equal_var=False).pvalue)
    assert result.uncapped is not None
    assert result.uncapped.p == pytest.approx(stats.ttest_ind(data.gmv[b], data.gmv[a], equal_var=False).pvalue)
    assert result.cap is not None
    assert result.cap.upper == pytest.approx(limit)
    assert result.cap.share_control == pytest.approx((data.gmv[a] > limit).mean())
    assert result.cap.rule == "<= p95"


def test_a_quantile_has_an_interval_from_order_statistics_or_a_reason_for_none() -> None:
    rng = np.random.default_rng(2)
    data = users(n=8000).assign(spent=rng.lognormal(0, 1, 8000))
    data.loc[data.variant == "b", "spent"] *= 1.2
    metrics = [Quantile(name="p90", column="spent", q=0.9), Quantile(name="clicks", column="clicks")]
    report = analyze(UserTable(data), metrics, "a", "b")
    p90 = report.metric("p90")
    theirs = [np.quantile(data.spent[data.variant == arm], 0.9, method="inverted_cdf") for arm in "ab"]
    assert [p90.control, p90.treatment] == theirs
    assert p90.method == "order-statistics+fieller"
    assert p90.low is not None
    assert p90.high is not None
    assert p90.low < 0.2 < p90.high
    assert report.metric("clicks").p is None
    assert "many units have exactly the quantile's value (2 and 2)" in report.metric("clicks").note


def test_a_guardrail_is_held_against_its_margin() -> None:
    guard = Mean(name="views", column="latency", role="guardrail", margin=0.05, direction="decrease")
    data = users(n=6000, lift=0.2).assign(latency=np.random.default_rng(0).normal(100, 20, 6000))
    report = analyze(UserTable(data), [GMV, guard], "a", "b")
    shown = report.metric("views").margin
    assert shown is not None
    assert shown.holds
    high = report.metric("views").high
    assert high is not None
    assert (high < 0.05) == shown.holds
    assert report.verdict.conclusion == "ship"
    narrow = analyze(UserTable(data), [GMV, replace(guard, margin=0.001)], "a", "b")
    assert narrow.verdict.conclusion == "keep running"

"""The whole way from a source to a report."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from fractions import Fraction
from math import isfinite
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from analysis.aggregates import Cell, Column, Moments, moments_of
from analysis.columns import Cap
from analysis.errors import ArgumentError, ArmError, DataError
from analysis.inference import Effect, compare
from analysis.metrics import Mean, Proportion, Quantile, Ratio, shop_metrics
from analysis.render.json import to_json
from analysis.report import Report, analyze, analyze_arms
from analysis.sources import ExperimentTables, UserTable

GMV = Mean(name="gmv", column="gmv", role="goal")


def users(seed: int = 0, n: int = 2000, lift: float = 0.0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    variant = rng.choice(["a", "b"], n)
    clicks = rng.poisson(2 * np.where(variant == "b", 1 + lift, 1))
    return pd.DataFrame({"variant": variant, "gmv": clicks * rng.lognormal(0, 1, n), "clicks": clicks, "views": 20})


def numbers(report: Report) -> list[float]:
    """Every number of the metrics, flat."""
    found: list[float] = []

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            for key in value:
                walk(value[key])
        elif isinstance(value, list):
            for item in value:
                walk(item)
        elif isinstance(value, float):
            found.append(value)

    walk(json.loads(to_json(report))["metrics"])
    return found


def test_a_mean_is_compared_as_scipy_does() -> None:
    data = users(lift=0.2)
    result = analyze(UserTable(data), [GMV], "a", "b").metric("gmv")
    treated, control = (data.gmv[data.variant == arm] for arm in "ba")
    theirs = stats.ttest_ind(treated, control, equal_var=False)
    assert result.p == pytest.approx(theirs.pvalue, rel=1e-9)
    assert result.lift == pytest.approx(treated.mean() / control.mean() - 1, rel=1e-9)
    assert (result.n_control, result.n_treatment) == (control.size, treated.size)
    assert (result.low > 0) == (theirs.pvalue < 0.05)  # type: ignore[operator]


def test_control_is_the_arm_that_is_named_whatever_the_order_of_labels_or_rows() -> None:
    data = users(lift=0.2)
    ab = analyze(UserTable(data), [GMV], "a", "b")
    reversed_rows = analyze(UserTable(data.iloc[::-1]), [GMV], "a", "b")
    assert numbers(reversed_rows) == pytest.approx(numbers(ab), rel=1e-10)
    renamed = analyze(UserTable(data.assign(variant=data.variant.map({"a": "z", "b": "b"}))), [GMV], "z", "b")
    assert numbers(renamed) == pytest.approx(numbers(ab), rel=1e-10)
    swapped = analyze(UserTable(data), [GMV], "b", "a").metric("gmv")
    assert swapped.difference == pytest.approx(-ab.metric("gmv").difference, rel=1e-10)  # type: ignore[operator]
    assert swapped.p == pytest.approx(ab.metric("gmv").p, rel=1e-10)


def test_a_planted_lift_is_found_in_the_experiments_tables(shop: Any, make_shop: Callable[..., None]) -> None:
    make_shop(shop, units=1500, effect=0.5, seed=3)
    report = analyze(ExperimentTables(shop.engine, "ranking"), shop_metrics(), "control", "treatment")
    clicks = report.metric("clicks_per_user")
    assert clicks.low is not None
    assert clicks.high is not None
    assert 0 < clicks.low < 0.5 < clicks.high
    assert report.verdict.conclusion == "ship"
    assert clicks.method == "cuped+welch+fieller"
    assert clicks.variance_reduction is not None
    assert clicks.variance_reduction > 0.1
    assert clicks.unadjusted is not None
    assert clicks.unadjusted.standard_error > clicks.standard_error  # type: ignore[operator]
    assert report.data.currency == "EUR"


def test_the_last_point_of_the_cumulative_lift_is_the_lift(filled_shop: Any) -> None:
    report = analyze(ExperimentTables(filled_shop.engine, "ranking"), shop_metrics(), "control", "treatment")
    for result in report.metrics:
        last = result.cumulative[-1]
        assert (last.lift, last.low, last.high) == (result.lift, result.low, result.high)
        assert [p.n_control for p in result.cumulative] == sorted(p.n_control for p in result.cumulative)
    enrolled = {arm: sum(e.units[arm] for e in report.data.enrolment) for arm in report.data.units}
    assert enrolled == report.data.units


def test_intervals_and_p_agree_whether_zero_is_excluded() -> None:
    for seed in range(20):
        result = analyze(UserTable(users(seed, n=300, lift=0.15)), [GMV], "a", "b").metric("gmv")
        assert result.low is not None
        assert result.high is not None
        assert (result.low > 0 or result.high < 0) == (result.p < 0.05)  # type: ignore[operator]


def test_arms_that_are_missing_or_the_same_are_refused() -> None:
    source = UserTable(users())
    with pytest.raises(ArmError, match=r"control 'x' is not an arm of the data\. Its arms: 'a', 'b'"):
        analyze(source, [GMV], "x", "b")
    with pytest.raises(ArmError, match="both 'a'"):
        analyze(source, [GMV], "a", "a")
    with pytest.raises(ArmError, match="treatment 'b' is not an arm"):
        analyze(UserTable(users().query("variant == 'a'")), [GMV], "a", "b")
    with pytest.raises(ArmError, match="does not name the treatment 'b'"):
        analyze(source, [GMV], "a", "b", {"a": 1.0})
    with pytest.raises(ArmError, match="must be above 0"):
        analyze(source, [GMV], "a", "b", {"a": 1.0, "b": 0.0})
    with pytest.raises(DataError, match=r"alpha is 1\.5"):
        analyze(source, [GMV], "a", "b", alpha=1.5)


def test_an_arm_that_was_planned_and_is_empty_makes_the_report_untrusted() -> None:
    report = analyze(UserTable(users().query("variant == 'a'")), [GMV], "a", "b", {"a": 1, "b": 1})
    assert report.verdict.conclusion == "cannot trust"
    assert report.metric("gmv").lift is None
    assert report.metric("gmv").note.startswith("No effect: the treatment has 0 unit(s)")


def test_a_split_of_nine_to_one_is_judged_by_the_plan_that_is_given() -> None:
    data = users(n=5000)
    data["variant"] = np.where(np.arange(5000) % 10 == 0, "b", "a")
    assert analyze(UserTable(data), [GMV], "a", "b").verdict.conclusion == "cannot trust"
    planned = analyze(UserTable(data), [GMV], "a", "b", {"a": 0.9, "b": 0.1})
    assert planned.check("sample_ratio").status == "ok"
    with pytest.raises(LookupError, match="no metric 'x'; it has gmv"):
        planned.metric("x")
    with pytest.raises(LookupError, match="no check 'x'; it has sample_ratio"):
        planned.check("x")


def test_a_metric_of_zeros_only_is_named_and_gives_no_number() -> None:
    report = analyze(UserTable(users().assign(gmv=0.0)), [GMV], "a", "b")
    assert report.verdict.conclusion == "cannot trust"
    assert report.metric("gmv").p is None
    assert "does not vary" in report.metric("gmv").note


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


def test_goals_are_decided_by_adjusted_p_values_and_the_first_metric_stands_in_for_a_goal() -> None:
    two = [GMV, Mean(name="clicks", column="clicks", role="goal"), Mean(name="views", column="gmv")]
    report = analyze(UserTable(users(lift=0.2)), two, "a", "b")
    p = [report.metric(name).p for name in ("gmv", "clicks")]
    adjusted = [report.metric(name).p_adjusted for name in ("gmv", "clicks")]
    assert min(adjusted) == pytest.approx(2 * min(p))  # type: ignore[type-var, operator]
    assert report.metric("views").p_adjusted == report.metric("views").p  # alone among the secondary metrics
    alone = analyze(UserTable(users()), [replace(GMV, role="secondary")], "a", "b")
    assert alone.metric("gmv").role == "goal"


def test_false_positives_come_at_the_nominal_rate() -> None:
    """400 A/A splits of skewed GMV with 30 % buyers: rejections between 2.5 and 8 % (false alarm below 1 in 1,000)."""
    rng = np.random.default_rng(11)
    rejected = 0
    for _ in range(400):
        y = rng.lognormal(0, 1, (2, 500)) * (rng.random((2, 500)) < 0.3)
        arms = [_moments(values) for values in y]

        effect = compare(Mean(name="y", column="y"), *arms)
        assert isinstance(effect, Effect)
        assert effect.interval is not None
        rejected += not effect.interval.contains(0.0)
    assert 10 <= rejected <= 32


def _moments(values: Any) -> Moments:
    y = Column("y")
    return moments_of([Cell("a", None, None, len(values), {y: values.sum()}, {(y, y): values @ values})], {})


def with_days(n: int = 4000, days: int = 10, lift: float = 0.0, seed: int = 5) -> pd.DataFrame:
    rng = np.random.default_rng(seed + 1000)  # not the draws of the arms again
    data = users(seed, n, lift)
    data["day"] = [date(2026, 6, 1 + int(d)) for d in rng.integers(0, days, n)]
    data["country"] = rng.choice(["de", "fr"], n)
    return data


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


def test_until_the_planned_size_only_the_confidence_sequence_decides() -> None:
    data = with_days(lift=0.25)
    once = analyze(UserTable(data, day="day"), [GMV], "a", "b")
    assert once.verdict.conclusion == "ship"
    peeking = analyze(UserTable(data, day="day"), [GMV], "a", "b", planned_units=40_000)
    anytime = peeking.metric("gmv").anytime
    assert anytime is not None
    assert anytime.p > once.metric("gmv").p  # type: ignore[operator]
    assert anytime.low is not None
    assert (anytime.low > 0) == (anytime.p < 0.05) == (peeking.verdict.conclusion == "ship")
    assert "confidence sequence" in peeking.verdict.reasons[0]
    assert [point.anytime is not None for point in peeking.metric("gmv").cumulative] == [True] * 10
    done = analyze(UserTable(data, day="day"), [GMV], "a", "b", planned_units=4_000)
    assert done.verdict.conclusion == "ship"
    with pytest.raises(ArgumentError, match="planned_units is 0"):
        analyze(UserTable(data), [GMV], "a", "b", planned_units=0)


def test_the_sequences_of_several_goals_are_corrected_for_their_number() -> None:
    """Each goal alone would ship on its sequence; as one of three it must be surer, by Bonferroni."""
    rng = np.random.default_rng(8)
    data = pd.DataFrame({"variant": ["a", "b"] * 2000, "x": rng.normal(10, 1, 4000)})
    data.loc[data.variant == "b", "x"] += 0.09
    data["y"], data["z"] = rng.normal(10, 1, 4000), rng.normal(10, 1, 4000)
    goals = [Mean(name=name, column=name, role="goal") for name in ("x", "y", "z")]
    alone = analyze(UserTable(data), goals[:1], "a", "b", planned_units=5000)
    three = analyze(UserTable(data), goals, "a", "b", planned_units=5000)
    p = alone.metric("x").anytime
    assert p is not None
    assert p == three.metric("x").anytime
    assert 0.05 / 3 < p.p < 0.05
    assert (alone.verdict.conclusion, three.verdict.conclusion) == ("ship", "keep running")


def test_an_undecided_goal_says_about_how_many_days_it_still_takes() -> None:
    report = analyze(UserTable(with_days(), day="day"), [GMV], "a", "b", precision=0.04)
    result = report.metric("gmv")
    assert report.verdict.conclusion == "keep running"
    assert result.remaining is not None
    assert result.high is not None
    assert result.low is not None
    needed = 4000 * ((result.high - result.low) / 2 / 0.04) ** 2
    assert result.remaining.units == pytest.approx(needed - 4000, rel=1e-3)
    assert result.remaining.days is not None
    assert f"about {result.remaining.days:,} more days for ±4 %" in report.verdict.reasons[0]
    assert analyze(UserTable(with_days()), [GMV], "a", "b").metric("gmv").remaining is None  # nothing tells the rate
    far = analyze(UserTable(with_days(), day="day"), [GMV], "a", "b", precision=0.001)
    assert "more days" not in far.verdict.reasons[0]  # years ahead: no number


def test_several_treatments_share_one_look_and_one_correction() -> None:
    data = users(n=3000)
    data["variant"] = np.random.default_rng(1).choice(["a", "b", "c"], 3000)
    b, c = analyze_arms(UserTable(data), [GMV], "a", ["b", "c"])
    p = [r.metric("gmv").p for r in (b, c)]
    assert [r.metric("gmv").p_adjusted for r in (b, c)] == pytest.approx(multipletests(p, method="holm")[1])
    alone = analyze(UserTable(data), [GMV], "a", "c")
    assert alone.metric("gmv").p == c.metric("gmv").p
    assert b.data == c.data
    with pytest.raises(ArmError, match="No treatment is given"):
        analyze_arms(UserTable(data), [GMV], "a", [])


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


def test_impossible_values_make_a_report_untrusted() -> None:
    data = users()
    data.loc[:9, "clicks"] = 21
    report = analyze(UserTable(data), [Ratio(name="ctr", numerator="clicks", denominator="views")], "a", "b")
    assert report.verdict.conclusion == "cannot trust"
    assert "clicks above views in 10 units." in report.check("impossible_values").sentence


def test_nist_univariate_sets_keep_ten_digits() -> None:
    """NIST StRD NumAcc1 to NumAcc4 as one arm; certified means and standard deviations."""
    certified = {
        "NumAcc1": ([10000001, 10000003, 10000002], 10000002, 1.0),
        "NumAcc2": ([1.2, *[1.1, 1.3] * 500], 1.2, 0.1),
        "NumAcc3": ([1000000.2, *[1000000.1, 1000000.3] * 500], 1000000.2, 0.1),
        "NumAcc4": ([10000000.2, *[10000000.1, 10000000.3] * 500], 10000000.2, 0.1),
    }
    for name, (values, mean, sd) in certified.items():
        y = np.array(values, dtype=float)
        needs = Mean(name="y", column="y").needs
        found = UserTable(pd.DataFrame({"variant": "a", "y": y})).collect(needs).aggregates.moments("a")
        assert found.means[Column("y")] == pytest.approx(mean, rel=1e-15), name
        # Doubles hold 0.1 beside 1e7 to 1e-8 only: the certified value to what the data can carry, and to 1e-10 the
        # exact value of the numbers as they are stored.
        stored = [Fraction(value) for value in y]
        centre = sum(stored) / len(stored)
        exact = float(sum((value - centre) ** 2 for value in stored) / (len(stored) - 1)) ** 0.5
        assert found.variance(Column("y")) ** 0.5 == pytest.approx(exact, rel=1e-10), name
        assert exact == pytest.approx(sd, rel=1e-8)

"""The whole way from a source to a report."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from analysis.aggregates import Cell, Column, Moments, moments_of
from analysis.errors import ArmError
from analysis.inference import Effect, compare
from analysis.metrics import Mean, Ratio, shop_metrics
from analysis.report import analyze, analyze_arms
from analysis.sources import ExperimentTables, UserTable
from tests.analysis.reports import GMV, numbers, users


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


def test_intervals_and_p_agree_whether_zero_is_excluded() -> None:
    for seed in range(20):
        result = analyze(UserTable(users(seed, n=300, lift=0.15)), [GMV], "a", "b").metric("gmv")
        assert result.low is not None
        assert result.high is not None
        assert (result.low > 0 or result.high < 0) == (result.p < 0.05)  # type: ignore[operator]


def test_an_arm_that_was_planned_and_is_empty_makes_the_report_untrusted() -> None:
    report = analyze(UserTable(users().query("variant == 'a'")), [GMV], "a", "b", {"a": 1, "b": 1})
    assert report.verdict.conclusion == "cannot trust"
    assert report.metric("gmv").lift is None
    assert report.metric("gmv").note.startswith("No effect: the treatment has 0 unit(s)")


def test_a_metric_of_zeros_only_is_named_and_gives_no_number() -> None:
    report = analyze(UserTable(users().assign(gmv=0.0)), [GMV], "a", "b")
    assert report.verdict.conclusion == "cannot trust"
    assert report.metric("gmv").p is None
    assert "does not vary" in report.metric("gmv").note


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


def test_impossible_values_make_a_report_untrusted() -> None:
    data = users()
    data.loc[:9, "clicks"] = 21
    report = analyze(
        UserTable(data), [Ratio(name="ctr", numerator="clicks", denominator="views", unit="share")], "a", "b"
    )
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
        result = UserTable(pd.DataFrame({"variant": "a", "y": y})).collect(needs).aggregates.moments("a")
        assert result.means[Column("y")] == pytest.approx(mean, rel=1e-15), name
        # Doubles hold 0.1 beside 1e7 to 1e-8 only: the certified value to what the data can carry, and to 1e-10 the
        # exact value of the numbers as they are stored.
        stored = [Fraction(value) for value in y]
        centre = sum(stored) / len(stored)
        exact = float(sum((value - centre) ** 2 for value in stored) / (len(stored) - 1)) ** 0.5
        assert result.variance(Column("y")) ** 0.5 == pytest.approx(exact, rel=1e-10), name
        assert exact == pytest.approx(sd, rel=1e-8)

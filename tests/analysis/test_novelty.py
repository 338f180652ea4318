"""The lift by time since exposure: the intervals cover the window, and the test of a change keeps its level."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.aggregates import Moments, pair
from analysis.columns import Cap, Window
from analysis.errors import ArgumentError, DataError
from analysis.inference import Effect, compare
from analysis.metrics import Count, Mean, Quantile, Ratio, Retention, shop_metrics
from analysis.novelty import MetricByAge, age_windows, by_age
from analysis.report import analyze
from analysis.sources import ExperimentTables, UserTable
from tests.analysis.builders import DAY, START, Shop

WEEK = timedelta(days=7)
CLICKS = Count(name="clicks", column="clicks")
CTR = Ratio(name="ctr", numerator="clicks", denominator="impressions")


def of(metric: Any, ages: tuple[Window, ...] | None = None) -> MetricByAge:
    result = by_age(metric, ages or age_windows(WEEK, timedelta(days=3)))
    assert result is not None
    return result


def test_the_intervals_tile_the_window_and_the_last_may_be_shorter() -> None:
    days = [(w.start / timedelta(days=1), w.end / timedelta(days=1)) for w in age_windows(WEEK, timedelta(days=3))]
    assert days == [(0, 3), (3, 6), (6, 7)]
    odd = timedelta(seconds=100)
    assert len(age_windows(odd, odd / 7)) == 7  # 14.285714 s, seven times, is two microseconds short
    assert age_windows(odd, odd / 7)[-1].end == odd


@pytest.mark.parametrize(("step", "message"), [(0, "Steps of 0 days"), (7, "Steps of 7 days"), (0.1, "70 intervals")])
def test_steps_that_make_no_sense_are_refused(step: float, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        age_windows(WEEK, timedelta(days=step))


def test_intervals_with_a_gap_or_only_one_are_refused(filled_shop: Shop) -> None:
    source = ExperimentTables(filled_shop.engine, "ranking")
    day = timedelta(days=1)
    for ages in ([Window(0 * day, day)], [Window(0 * day, day), Window(2 * day, 3 * day)]):
        with pytest.raises(ArgumentError, match="at least two, each starting where the one before it ends"):
            analyze(source, [CLICKS], "control", "treatment", ages=ages)


@pytest.mark.parametrize("metric", [CLICKS, CTR], ids=lambda m: m.name)
def test_the_gradient_of_a_change_is_its_derivative(metric: Any) -> None:
    change, rng = of(metric).change, np.random.default_rng(0)
    means = {column: float(rng.uniform(1, 3)) for column in change.inputs}
    gradient = change.gradient(means)
    for column in change.inputs:
        step = 1e-6
        up, down = (change.value(means | {column: means[column] + sign * step}) for sign in (1, -1))
        assert up is not None
        assert down is not None
        assert gradient[column] == pytest.approx((up - down) / (2 * step), rel=1e-6)
    assert change.value(dict.fromkeys(change.inputs, 0.0)) is None


def test_metrics_with_a_window_of_their_own_and_quantiles_are_left_out_and_caps_are_off() -> None:
    ages = age_windows(WEEK, timedelta(days=1))
    assert by_age(Retention(name="back"), ages) is None
    assert by_age(Quantile(name="q", column="clicks"), ages) is None
    assert by_age(CLICKS, ()) is None
    capped = of(Mean(name="gmv", column="gmv", cap=Cap(upper_quantile=0.5)), ages)
    assert all(column.cap is None for column in capped.needs.columns)


def change_p(rng: np.random.Generator, units: int, early: float, late: float) -> float:
    """Return the p-value of a change in clicks; `early` and `late` are the treatment's true lifts."""
    change = of(CLICKS).change
    (later,), (first,) = change.late.inputs, change.early.inputs
    arms = []
    for lift_early, lift_late in ((0.0, 0.0), (early, late)):
        taste = rng.gamma(2.0, 1.0, units)
        x, y = rng.poisson(taste * (1 + lift_early)), rng.poisson(3 * taste * (1 + lift_late))
        s = np.cov(x, y)
        covariances = {pair(first, first): s[0, 0], pair(first, later): s[0, 1], pair(later, later): s[1, 1]}
        arms.append(Moments(units, {first: x.mean(), later: y.mean()}, covariances, {}))
    effect = compare(change, *arms)
    assert isinstance(effect, Effect)
    return effect.difference.p


def test_a_lift_that_stays_is_called_changing_as_often_as_alpha_says_and_one_that_fades_is_found() -> None:
    """+30 % throughout: 5 % of 2,000 runs, within what chance allows. +60 % fading to +5 %: nearly always seen."""
    rng = np.random.default_rng(1)
    steady = np.mean([change_p(rng, 400, 0.3, 0.3) < 0.05 for _ in range(2000)])
    assert 0.035 < steady < 0.065
    assert np.mean([change_p(rng, 400, 0.6, 0.05) < 0.05 for _ in range(50)]) > 0.9


def fading(shop: Shop, units: int = 1500) -> None:
    """Clicks of a fortnight, with +80 % in the treatment on the first two days after exposure, and nothing later."""
    rng = np.random.default_rng(4)
    for number in range(units):
        arm, first = ("control", "treatment")[number % 2], START + int(rng.integers(10 * DAY))
        shop.unit(f"u{number}", arm, first)
        for day in range(14):
            rate = 0.5 * (1.8 if arm == "treatment" and day < 2 else 1.0)
            for _ in range(rng.poisson(rate)):
                shop.engagement(f"u{number}", "click", first + day * DAY + int(rng.integers(DAY)))
    shop.save()


def test_novelty_is_found_in_the_experiments_tables_and_shown_by_age(shop: Shop) -> None:
    fading(shop)
    cut_off = datetime(2026, 6, 16, tzinfo=UTC)  # 15 days after the first, 5 days after the last exposure
    source = ExperimentTables(shop.engine, "ranking", as_of=cut_off)
    ages = age_windows(timedelta(days=14), timedelta(days=2))
    row = analyze(source, [CLICKS], "control", "treatment", ages=ages).metric("clicks")
    assert row.novelty is not None
    assert row.novelty.p is not None
    assert row.novelty.p < 1e-4
    assert row.novelty.early is not None
    assert row.novelty.late is not None
    assert row.novelty.early > 0.5
    assert abs(row.novelty.late) < 0.1
    assert [(a.start_days, a.end_days) for a in row.ages] == [(d, d + 2) for d in range(0, 14, 2)]
    for part, low in zip(row.ages, (0.5, -0.2, -0.2, -0.2, -0.2), strict=False):
        assert part.lift is not None
        assert part.lift > low
    counts = [part.n_control + part.n_treatment for part in row.ages]
    assert counts[0] == 1500
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] < 200  # only who came on the first day has been in for 14


def test_an_age_is_the_metric_with_that_window_over_who_completed_it(filled_shop: Shop) -> None:
    ages = age_windows(timedelta(days=6), timedelta(days=2))
    cut_off = datetime(2026, 6, 20, tzinfo=UTC)  # everybody's six days are over
    source = ExperimentTables(filled_shop.engine, "ranking", window=timedelta(days=6), as_of=cut_off)
    row = analyze(source, [CTR], "control", "treatment", ages=ages).metric("ctr")
    for age, part in zip(ages, row.ages, strict=True):
        own = Ratio(name="ctr", numerator="clicks", denominator="impressions", window=age)
        alone = analyze(source, [own], "control", "treatment").metric("ctr")
        assert (part.lift, part.low, part.high) == pytest.approx((alone.lift, alone.low, alone.high), rel=1e-9)
        assert (part.n_control, part.n_treatment) == (alone.n_control, alone.n_treatment)


def test_asking_for_ages_changes_no_other_number(filled_shop: Shop) -> None:
    source = ExperimentTables(filled_shop.engine, "ranking")
    plain = analyze(source, shop_metrics(), "control", "treatment")
    asked = analyze(
        source, shop_metrics(), "control", "treatment", ages=age_windows(timedelta(days=14), timedelta(days=7))
    )
    for one, other in zip(plain.metrics, asked.metrics, strict=True):
        assert (one.ages, one.novelty) == ([], None)
        assert (one.lift, one.low, one.high, one.p) == pytest.approx((other.lift, other.low, other.high, other.p))
        assert other.novelty is not None
    assert plain.checks == asked.checks


def test_a_table_of_users_knows_no_times_and_says_so() -> None:
    users = UserTable(pd.DataFrame({"variant": ["a", "b"] * 20, "clicks": range(40)}))
    with pytest.raises(DataError, match="one row per unit, without the times of its events"):
        analyze(users, [CLICKS], "a", "b", ages=age_windows(WEEK, timedelta(days=1)))

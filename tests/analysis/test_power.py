"""Sample sizes against Cohen's table and statsmodels, power against simulation, days against their own history."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.power import TTestIndPower

from analysis.errors import ArgumentError, DataError
from analysis.inference import ArmEstimate, Effect, compare, effect_of
from analysis.metrics import Mean, Proportion, Ratio
from analysis.power import (
    Baseline,
    days_until,
    durations,
    minimum_detectable_lift,
    power,
    remaining,
    sample_size,
)
from analysis.sample_moments import sample_moments

UNIT = Baseline(1.0, 1.0)  # a lift of 0.2 is then Cohen's d = 0.2


@pytest.mark.parametrize(("d", "per_arm"), [(0.2, 393.41), (0.5, 63.77), (0.8, 25.52)])
def test_the_sample_sizes_of_cohens_table(d: float, per_arm: float) -> None:
    """Two-sided 0.05, power 0.8."""
    assert sample_size(UNIT, d).units / 2 == pytest.approx(per_arm, abs=0.005)


@pytest.mark.parametrize("lift", [0.03, -0.1, 0.4])
@pytest.mark.parametrize("n", [20, 300, 20_000])
def test_power_is_statsmodels(lift: float, n: int) -> None:
    theirs = TTestIndPower().power(abs(lift), n, 0.05, ratio=1)
    assert power(UNIT, lift, n, n) == pytest.approx(theirs, rel=1e-9)


@settings(max_examples=150, deadline=None)
@given(
    st.floats(0.005, 1.0),
    st.sampled_from([0.01, 0.05]),
    st.sampled_from([0.5, 0.8, 0.95]),
    st.sampled_from([0.5, 0.1, 0.8]),
    st.sampled_from([UNIT, Baseline(2.5, 4000.0), Baseline.proportion(0.03)]),
)
def test_size_power_and_detectable_lift_are_one_relation(
    lift: float, alpha: float, wanted: float, share: float, baseline: Baseline
) -> None:
    size = sample_size(baseline, lift, alpha=alpha, power_wanted=wanted, treatment_share=share)
    arms = size.units * (1 - share), size.units * share
    if size.units > 2 / min(share, 1 - share):
        assert power(baseline, lift, *arms, alpha=alpha) == pytest.approx(wanted, rel=1e-6)
        result = minimum_detectable_lift(baseline, *arms, alpha=alpha, power_wanted=wanted)
        assert result == pytest.approx(lift, rel=1e-5)
    assert size.control + size.treatment >= size.units


def test_power_of_heavy_tailed_values_is_that_of_a_simulation() -> None:
    """GMV with 3 % buyers; 20,000 users per arm; the lift multiplies values, so the variance grows a little too."""
    rng = np.random.default_rng(1)
    n, runs, lift = 20_000, 2000, 0.12
    sums = []
    for factor in (1.0, 1 + lift):
        buyers = rng.binomial(n, 0.03, runs)
        values = factor * rng.lognormal(3.5, 1.0, int(buyers.sum()))
        starts = np.r_[0, np.cumsum(buyers)[:-1]]
        sums.append([np.add.reduceat(v, starts) / n for v in (values, values**2)])
    (mc, qc), (mt, qt) = sums
    vc, vt = qc - mc**2, qt - mt**2
    mean = np.mean(np.abs(mt - mc) / np.sqrt((vc + vt) / n) > 1.96)
    baseline = Baseline(float(mc.mean()), float((vc.mean() + vt.mean()) / 2))
    assert power(baseline, lift, n, n) == pytest.approx(mean, abs=0.035)


def test_power_of_a_proportion_is_exact_up_to_its_approximation() -> None:
    """Sum over all pairs of binomial counts, weighted by their probability."""
    n, p, lift = 400, 0.2, 0.4
    k = np.arange(n + 1)
    pc, pt = k[:, None] / n, k[None, :] / n
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.abs(pt - pc) / np.sqrt((pc * (1 - pc) + pt * (1 - pt)) / (n - 1))
    rejected = np.nan_to_num(z) > stats.t.ppf(0.975, 2 * n - 2)
    chance = stats.binom.pmf(k, n, p)[:, None] * stats.binom.pmf(k, n, p * (1 + lift))[None, :]
    assert power(Baseline.proportion(p), lift, n, n) == pytest.approx(float((chance * rejected).sum()), abs=0.01)


def test_a_baseline_comes_from_history_for_means_ratios_and_proportions() -> None:
    rng = np.random.default_rng(2)
    views = rng.integers(1, 20, 5000).astype(float)
    columns = {"clicks": rng.binomial(views.astype(int), 0.1).astype(float), "views": views, "orders": views - 15}
    mean = Mean(name="c", column="clicks")
    baseline = Baseline.of(mean, sample_moments(mean.needs, columns))
    assert (baseline.value, baseline.variance) == pytest.approx(
        (columns["clicks"].mean(), columns["clicks"].var(ddof=1))
    )
    ratio = Ratio(name="r", numerator="clicks", denominator="views")
    baseline = Baseline.of(ratio, sample_moments(ratio.needs, columns))
    residual = columns["clicks"] - baseline.value * views
    assert baseline.variance == pytest.approx(residual.var(ddof=1) / views.mean() ** 2, rel=1e-9)
    share = Proportion(name="p", column="orders")
    baseline = Baseline.of(share, sample_moments(share.needs, columns))
    expected = Baseline.proportion(float((columns["orders"] > 0).mean()))
    assert baseline.share
    assert (baseline.value, baseline.variance) == pytest.approx((expected.value, expected.variance), rel=1e-3)


def test_cuped_needs_fewer_units_by_the_squared_correlation() -> None:
    rng = np.random.default_rng(3)
    pre = rng.gamma(2, 2, 4000)
    columns = {"y": pre + rng.gamma(2, 2, 4000), "pre": pre}
    plain, adjusted = Mean(name="y", column="y"), Mean(name="y", column="y", covariate="pre")
    moments = sample_moments(adjusted.needs, columns)
    sizes = [sample_size(Baseline.of(metric, moments), 0.03).units for metric in (plain, adjusted)]
    rho = np.corrcoef(columns["y"], pre)[0, 1]
    assert sizes[1] / sizes[0] == pytest.approx(1 - rho**2, rel=1e-3)


def test_a_sequential_design_inflates_the_size() -> None:
    assert sample_size(UNIT, 0.2, inflation=1.2).units == pytest.approx(1.2 * sample_size(UNIT, 0.2).units)
    plain = minimum_detectable_lift(UNIT, 1000, 1000)
    assert plain is not None
    assert minimum_detectable_lift(UNIT, 1200, 1200, inflation=1.2) == pytest.approx(plain, rel=1e-9)


def test_a_share_cannot_rise_above_one() -> None:
    assert minimum_detectable_lift(Baseline.proportion(0.9), 10, 10) is None
    with pytest.raises(ArgumentError, match=r"at most 0\.111"):
        power(Baseline.proportion(0.9), 0.2, 10, 10)


def test_longer_experiments_see_smaller_lifts() -> None:
    rng = np.random.default_rng(4)
    metric = Mean(name="y", column="y")
    history = {d: sample_moments(metric.needs, {"y": rng.lognormal(0, 1, 1000 * d)}) for d in (14, 7, 28)}
    result = durations(metric, history, traffic=0.5)
    assert [row.days for row in result] == [7, 14, 28]
    assert [row.units for row in result] == [3500, 7000, 14_000]
    lifts = [row.mde for row in result if row.mde is not None]
    assert lifts == sorted(lifts, reverse=True)
    assert lifts[0] / lifts[-1] == pytest.approx(2.0, rel=0.2)


def test_days_follow_the_growth_of_the_history() -> None:
    assert days_until(2000, [100] * 10) == 10  # as many new units each day
    slowing = np.diff(np.round(1000 * np.arange(0, 61) ** 0.5)).astype(int).tolist()
    days = days_until(1000 * 60**0.5, slowing[:30])
    assert days == pytest.approx(30, abs=3)  # cumulative units like the root of the days
    ramped = [10] * 5 + [1000] * 7
    assert days_until(sum(ramped) + 5000, ramped) == 5  # at the present rate after a ramp-up


def test_no_days_are_left_without_missing_units_and_none_are_known_without_a_rate() -> None:
    assert days_until(100, [60, 50]) == 0
    assert days_until(100, [50, *[0] * 7]) is None
    assert days_until(100, []) is None


def test_what_remains_until_an_interval_is_narrow_enough() -> None:
    arms = [ArmEstimate(5000, value, value, 0.01, 0.01, 0.01) for value in (10.0, 10.1)]
    effect = effect_of(*arms)
    assert isinstance(effect, Effect)
    assert effect.interval is not None
    width = (effect.interval.high - effect.interval.low) / 2
    half = remaining(effect, width / 2, [1000] * 10)
    assert half.units == pytest.approx(30_000, abs=1)  # half the width takes four times the units
    assert half.days == 30
    assert remaining(effect, 2 * width, [1000] * 10) == remaining(effect, width, [1000] * 10)
    assert remaining(effect, width, [1000] * 10).days == 0
    assert remaining(effect, width / 2, []).days is None
    assert remaining(effect, width / 2, [10_000, *[0] * 7]).days is None


def test_the_remaining_units_narrow_the_interval_to_the_requested_precision() -> None:
    rng = np.random.default_rng(5)
    metric = Mean(name="y", column="y")

    def effect(n: int) -> Effect:
        arms = [sample_moments(metric.needs, {"y": rng.lognormal(0, 1, n)}) for _ in range(2)]
        comparison = compare(metric, *arms)
        assert isinstance(comparison, Effect)
        return comparison

    needed = remaining(effect(5000), 0.02, [1000] * 10)
    later = effect((10_000 + needed.units) // 2).interval
    assert later is not None
    assert (later.high - later.low) / 2 == pytest.approx(0.02, rel=0.1)


def test_plans_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ArgumentError, match="lift is 0"):
        sample_size(UNIT, 0)
    with pytest.raises(ArgumentError, match="value is 0"):
        Baseline(0, 1)
    with pytest.raises(ArgumentError, match="share is 1"):
        Baseline.proportion(1)
    with pytest.raises(ArgumentError, match=r"power_wanted is 0\.01, and must be .* above 0\.05"):
        sample_size(UNIT, 0.1, power_wanted=0.01)
    with pytest.raises(ArgumentError, match="control units is 1"):
        power(UNIT, 0.1, 1, 10)
    metric = Mean(name="y", column="y")
    with pytest.raises(DataError, match="'y' is 3 with variance 0"):
        Baseline.of(metric, sample_moments(metric.needs, {"y": [3.0, 3.0]}))
    with pytest.raises(DataError, match="has 1 units"):
        Baseline.of(metric, sample_moments(metric.needs, {"y": [3.0]}))
    unbounded = effect_of(*[ArmEstimate(9, 0.1, 0.1, 1.0, 1.0, 1.0)] * 2)
    assert isinstance(unbounded, Effect)
    with pytest.raises(ArgumentError, match="unbounded"):
        remaining(unbounded, 0.1, [1])


def test_a_number_of_days_beyond_any_plan_is_none() -> None:
    """Almost no new users join any more, so the number of units is never reached."""
    assert days_until(100_000, [3_000, 800, 150, 40, 10, 3, 1, 1, 0, 0, 1, 0, 0, 1]) is None
    assert days_until(1e300, [3_000, 800, 150, 40, 10, 3, 1, 1, 0, 0, 1, 0, 0, 1]) is None
    assert days_until(4_000, [100] * 10) == 30


def test_every_share_of_the_treatment_can_be_planned() -> None:
    """2 / 0.09 * 0.09 is below 2 by rounding, as for 146 of 999 other shares."""
    baseline = Baseline(1.0, 1.0)
    for thousandths in range(1, 1000):
        size = sample_size(baseline, 0.5, treatment_share=thousandths / 1000)
        assert min(size.control, size.treatment) >= 2

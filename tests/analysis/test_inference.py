"""Differences, lifts and intervals against SciPy and statsmodels, and the identities that must hold."""

from math import inf, isfinite, sqrt

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from analysis.aggregates import Cell, Column, Moments, moments_of
from analysis.inference import ArmEstimate, Effect, Undefined, compare, estimate, lift_interval, welch
from analysis.metrics import Mean, Metric, Proportion, Ratio

Array = NDArray[np.float64]
MEAN = Mean(name="y", column="y")
CUPED = Mean(name="y", column="y", covariate="x")
RATIO = Ratio(name="r", numerator="y", denominator="x")


def moments(y: Array, x: Array | None = None) -> Moments:
    columns = {Column("y"): y, Column("x"): y if x is None else x}
    products = {
        (Column("x"), Column("x")): float(columns[Column("x")] @ columns[Column("x")]),
        (Column("x"), Column("y")): float(columns[Column("x")] @ y),
        (Column("y"), Column("y")): float(y @ y),
    }
    return moments_of([Cell("a", None, None, len(y), {c: float(v.sum()) for c, v in columns.items()}, products)], {})


def effect(metric: Metric, control: Moments, treatment: Moments, **options: object) -> Effect:
    result = compare(metric, control, treatment, **options)  # type: ignore[arg-type]
    assert isinstance(result, Effect), result
    return result


def shoppers(seed: int, n: int = 400, lift: float = 0.2) -> tuple[Array, Array, Array, Array]:
    """Two arms of unequal size and spread, with a covariate that predicts the outcome."""
    rng = np.random.default_rng(seed)
    xc, xt = rng.gamma(2, 3, n), rng.gamma(2, 3, 2 * n)
    yc = 2 * xc + rng.lognormal(0, 1, n)
    yt = (1 + lift) * 2 * xt + rng.lognormal(0, 1.2, 2 * n)
    return yc, xc, yt, xt


def test_the_difference_is_scipys_welch_test() -> None:
    yc, _, yt, _ = shoppers(1)
    ours = effect(MEAN, moments(yc), moments(yt), alpha=0.1).difference
    theirs = stats.ttest_ind(yt, yc, equal_var=False)
    low, high = theirs.confidence_interval(0.9)
    assert (ours.p, ours.df) == pytest.approx((theirs.pvalue, theirs.df), rel=1e-9)
    assert (ours.low, ours.high) == pytest.approx((low, high), rel=1e-9)


def test_the_delta_interval_is_the_textbook_one() -> None:
    yc, _, yt, _ = shoppers(2)
    ours = effect(MEAN, moments(yc), moments(yt), method="delta")
    ratio = yt.mean() / yc.mean()
    error = ratio * sqrt(yt.var(ddof=1) / yt.size / yt.mean() ** 2 + yc.var(ddof=1) / yc.size / yc.mean() ** 2)
    t = stats.t.ppf(0.975, ours.difference.df)
    assert ours.interval is not None
    assert (ours.interval.low, ours.interval.high) == pytest.approx((ratio - 1 - t * error, ratio - 1 + t * error))


def test_the_log_interval_is_symmetric_in_the_logarithm_and_close_to_delta_in_large_samples() -> None:
    yc, _, yt, _ = shoppers(3, n=50_000)
    log, delta = (effect(MEAN, moments(yc), moments(yt), method=m).interval for m in ("log", "delta"))
    assert log is not None
    assert delta is not None
    ratio = yt.mean() / yc.mean()
    assert (1 + log.low) * (1 + log.high) == pytest.approx(ratio**2, rel=1e-12)
    assert (log.low, log.high) == pytest.approx((delta.low, delta.high), abs=2e-4)


def test_fieller_endpoints_are_where_the_linear_combination_is_just_rejected() -> None:
    """By inversion: at an endpoint r the t statistic of mean_t - r * mean_c equals the quantile."""
    yc, _, yt, _ = shoppers(4, n=60)
    ours = effect(MEAN, moments(yc), moments(yt))
    assert ours.interval is not None
    t = stats.t.ppf(0.975, ours.difference.df)
    for end in (ours.interval.low, ours.interval.high):
        r = 1 + end
        statistic = (yt.mean() - r * yc.mean()) / sqrt(yt.var(ddof=1) / yt.size + r * r * yc.var(ddof=1) / yc.size)
        assert abs(statistic) == pytest.approx(t, rel=1e-9)


arm = st.builds(
    lambda n, mean, deviation: ArmEstimate(n, mean, mean, deviation**2, deviation**2, deviation**2),
    st.integers(2, 10_000),
    st.floats(-10, 10),
    st.floats(0.01, 10),
)


@settings(max_examples=500, deadline=None)
@given(arm, arm, st.floats(0.001, 0.5))
def test_fieller_excludes_zero_exactly_when_welch_rejects(c: ArmEstimate, t: ArmEstimate, alpha: float) -> None:
    difference = welch(c, t, alpha=alpha)
    assume(abs(difference.p - alpha) > 1e-6)  # on the edge itself, rounding decides
    assert lift_interval(c, t, alpha=alpha).contains(0.0) == (difference.p > alpha)


@settings(max_examples=200, deadline=None)
@given(arm, arm, st.floats(-1, 1), st.floats(0, 0.99))
def test_fieller_agrees_with_welch_under_cuped_too(c: ArmEstimate, t: ArmEstimate, move: float, cut: float) -> None:
    """Adjusted and raw estimates differ, and are correlated: the equivalence does not depend on it."""
    adjusted = [
        ArmEstimate(a.n, a.raw, a.raw + move, a.variance * (1 - cut), a.raw_variance, a.variance * (1 - cut))
        for a in (c, t)
    ]
    difference = welch(*adjusted)
    assume(abs(difference.p - 0.05) > 1e-6)
    assert lift_interval(*adjusted).contains(0.0) == (difference.p > 0.05)


clear_arm = st.builds(  # clearly above 0
    lambda n, mean, share: ArmEstimate(n, mean, mean, *[(mean * share) ** 2] * 3),
    st.integers(20, 10_000),
    st.floats(1, 10),
    st.floats(0.001, 0.2),
)


@settings(max_examples=300, deadline=None)
@given(arm, arm)
def test_swapping_the_labels_turns_the_difference_around(c: ArmEstimate, t: ArmEstimate) -> None:
    forward, back = welch(c, t), welch(t, c)
    assert (back.value, back.low, back.high) == (-forward.value, -forward.high, -forward.low)
    assert (back.p, back.df) == pytest.approx((forward.p, forward.df), rel=1e-12)


@settings(max_examples=300, deadline=None)
@given(clear_arm, clear_arm)
def test_swapping_the_labels_turns_fiellers_ratio_upside_down(c: ArmEstimate, t: ArmEstimate) -> None:
    """1 + lift becomes 1 / (1 + lift), at both ends: no interval by the delta method can do that."""
    forward, back = lift_interval(c, t), lift_interval(t, c)
    assert forward.shape == back.shape == "bounded"
    assert 1 + back.low == pytest.approx(1 / (1 + forward.high), rel=1e-6)
    assert 1 + back.high == pytest.approx(1 / (1 + forward.low), rel=1e-6)


@settings(max_examples=200, deadline=None)
@given(clear_arm, clear_arm, st.floats(1e-6, 1e6), st.sampled_from(["fieller", "delta", "log"]))
def test_the_unit_of_the_metric_changes_no_lift(c: ArmEstimate, t: ArmEstimate, scale: float, name: str) -> None:
    """Cents or euros."""

    def scaled(a: ArmEstimate) -> ArmEstimate:
        v = a.variance * scale**2
        return ArmEstimate(a.n, a.raw * scale, a.adjusted * scale, v, v, v)

    plain, other = lift_interval(c, t, method=name), lift_interval(scaled(c), scaled(t), method=name)  # type: ignore[arg-type]
    assert (other.low, other.high) == pytest.approx((plain.low, plain.high), rel=1e-6, abs=1e-9)
    assert welch(scaled(c), scaled(t)).p == pytest.approx(welch(c, t).p, rel=1e-9)


def test_a_published_pair_of_click_counts() -> None:
    """17,489 of 145,274 against 17,264 of 145,310: z = -1.310924, p = 0.189883 with a pooled variance; Welch's test
    keeps the arms' own, and agrees to six digits at this size."""
    metric = Proportion(name="clicked", column="y")
    column = Column("y", positive=True)
    arms = [
        moments_of([Cell("a", None, None, n, {column: float(k)}, {(column, column): float(k)})], {})
        for k, n in ((17_489, 145_274), (17_264, 145_310))
    ]
    result = effect(metric, *arms).difference
    assert result.value / result.standard_error == pytest.approx(-1.310924, abs=2e-6)
    assert result.p == pytest.approx(0.189883, abs=3e-6)


def test_an_interval_over_a_control_near_zero_is_unbounded_and_says_so() -> None:
    near = ArmEstimate(100, 0.1, 0.1, 1.0, 1.0, 1.0)
    everything = lift_interval(near, ArmEstimate(100, 0.5, 0.5, 1.0, 1.0, 1.0))
    assert (everything.shape, everything.low, everything.high) == ("everything", -inf, inf)
    outside = lift_interval(near, ArmEstimate(100, 9.0, 9.0, 1.0, 1.0, 1.0))
    assert outside.shape == "outside"
    assert not outside.contains(0.0)
    assert outside.contains(1e9)


def test_a_lift_over_a_control_that_is_not_positive_is_undefined() -> None:
    rng = np.random.default_rng(5)
    result = effect(MEAN, moments(rng.normal(-1, 1, 50)), moments(rng.normal(1, 1, 50)))
    assert result.lift is None
    assert result.interval is None
    assert isfinite(result.difference.p)


def test_cuped_reduces_the_variance_by_the_squared_correlation() -> None:
    """1 - rho^2 of the pooled within-arm residuals: exact with the pooled theta and equal arms."""
    rng = np.random.default_rng(6)
    x = rng.normal(10, 2, 1000)
    y = 3 * x + rng.normal(0, 4, 1000)
    half = moments(y[:500], x[:500]), moments(y[500:], x[500:])
    result = effect(CUPED, *half)
    residual_x = np.concatenate([x[:500] - x[:500].mean(), x[500:] - x[500:].mean()])
    residual_y = np.concatenate([y[:500] - y[:500].mean(), y[500:] - y[500:].mean()])
    rho = np.corrcoef(residual_x, residual_y)[0, 1]
    assert result.variance_reduction == pytest.approx(rho**2, rel=1e-9)


def test_cuped_is_the_ancova_coefficient() -> None:
    """theta pooled within the arms makes the adjusted difference the OLS coefficient of y ~ arm + x (statsmodels)."""
    import statsmodels.api as sm

    yc, xc, yt, xt = shoppers(7)
    is_treated = np.r_[np.zeros(yc.size), np.ones(yt.size)]
    fit = sm.OLS(np.r_[yc, yt], sm.add_constant(np.c_[is_treated, np.r_[xc, xt]])).fit()
    ours = effect(CUPED, moments(yc, xc), moments(yt, xt))
    assert ours.difference.value == pytest.approx(fit.params[1], rel=1e-9)
    assert ours.theta == pytest.approx((fit.params[2],), rel=1e-9)


def test_cuped_divides_by_the_raw_control_mean() -> None:
    yc, xc, yt, xt = shoppers(8)
    ours = effect(CUPED, moments(yc, xc), moments(yt, xt))
    assert ours.control.raw == pytest.approx(yc.mean(), rel=1e-12)
    assert ours.lift == pytest.approx(ours.difference.value / yc.mean(), rel=1e-12)


def test_a_covariate_that_does_not_vary_leaves_the_estimate_alone() -> None:
    yc, xc, yt, xt = shoppers(9)
    flat = effect(CUPED, moments(yc, 0 * xc), moments(yt, 0 * xt))
    assert flat.theta is None
    assert flat.difference == effect(MEAN, moments(yc), moments(yt)).difference


def test_the_variance_of_a_ratio_is_that_of_clustered_least_squares() -> None:
    """Delta method = statsmodels OLS on impressions with errors clustered by user, but for n / (n - 1)."""
    import statsmodels.api as sm

    rng = np.random.default_rng(10)
    views = rng.integers(1, 30, 200)
    clicks = rng.binomial(views, rng.beta(2, 8, 200))
    events = np.concatenate([np.r_[np.ones(c), np.zeros(v - c)] for c, v in zip(clicks, views, strict=True)])
    fit = sm.OLS(events, np.ones(events.size)).fit(
        cov_type="cluster",
        cov_kwds={"groups": np.repeat(np.arange(200), views), "use_correction": False},
    )
    ours = estimate(RATIO, moments(clicks.astype(float), views.astype(float)))
    assert ours.raw == pytest.approx(fit.params[0], rel=1e-12)
    assert ours.variance * 199 / 200 == pytest.approx(fit.bse[0] ** 2, rel=1e-9)


def test_one_unit_or_an_empty_denominator_is_undefined_with_a_reason() -> None:
    two = moments(np.array([1.0, 2.0]), np.array([0.0, 0.0]))
    one = moments(np.array([1.0]))
    assert compare(MEAN, one, two) == Undefined("the control has 1 unit(s), and a variance needs two")
    assert compare(RATIO, two, two) == Undefined("the denominator is 0 in the control")
    flat = moments(np.array([3.0, 3.0]))
    assert compare(MEAN, flat, flat) == Undefined("the metric does not vary in either arm")

"""CUPED and post-stratification equal the corresponding regressions and keep the expectation."""

import numpy as np
import pytest
import statsmodels.api as sm
from numpy.typing import NDArray

from analysis.adjustment import cuped, post_stratify
from analysis.aggregates import Moments
from analysis.errors import ArmError
from analysis.inference import Effect, compare
from analysis.metrics import Mean, Metric, Ratio
from analysis.sample_moments import sample_moments

Array = NDArray[np.float64]
Columns = dict[str, Array]
GMV = Mean(name="gmv", column="gmv")
CTR = Ratio(name="ctr", numerator="clicks", denominator="views")


def effect(metric: Metric, control: Columns, treatment: Columns, **options: object) -> Effect:
    result = compare(metric, *(sample_moments(metric.needs, c) for c in (control, treatment)), **options)  # type: ignore[arg-type]
    assert isinstance(result, Effect), result
    return result


def users(seed: int, n: int, lift: float = 0.0) -> Columns:
    rng = np.random.default_rng(seed)
    taste, wealth = rng.gamma(2, 1, n), rng.lognormal(3, 0.5, n)
    return {
        "gmv": (1 + lift) * (3 * taste + 0.2 * wealth + rng.lognormal(0, 1, n)),
        "gmv_pre": 3 * taste + rng.lognormal(0, 1, n),
        "orders_pre": rng.poisson(taste).astype(float),
        "balance": wealth,
    }


def visitors(seed: int, n: int, lift: float = 0.0) -> Columns:
    rng = np.random.default_rng(seed)
    views, views_pre = rng.integers(1, 40, n), rng.integers(1, 40, n)
    rate = rng.beta(2, 10, n)
    return {
        "clicks": rng.binomial(views, np.minimum(rate * (1 + lift), 1)).astype(float),
        "views": views.astype(float),
        "clicks_pre": rng.binomial(views_pre, rate).astype(float),
        "views_pre": views_pre.astype(float),
    }


THREE = Mean(name="gmv", column="gmv", covariates=("gmv_pre", "orders_pre", "balance"))


def test_several_covariates_are_an_analysis_of_covariance() -> None:
    """Difference and all coefficients equal statsmodels' least squares of gmv on arm and covariates."""
    c, t = users(1, 400), users(2, 700, lift=0.1)
    y = np.r_[c["gmv"], t["gmv"]]
    names = THREE.covariates
    covariates = np.column_stack([np.r_[c[name], t[name]] for name in names])
    arm = np.r_[np.zeros(400), np.ones(700)]
    fit = sm.OLS(y, sm.add_constant(np.column_stack([arm, covariates]))).fit()
    ours = effect(THREE, c, t)
    assert ours.difference.value == pytest.approx(fit.params[1], rel=1e-9)
    assert ours.theta == pytest.approx(tuple(fit.params[2:]), rel=1e-9)


def test_each_covariate_takes_away_variance() -> None:
    c, t = users(3, 2000), users(4, 2000)
    errors = [
        effect(Mean(name="gmv", column="gmv", covariates=THREE.covariates[:k]), c, t).difference.standard_error
        for k in range(4)
    ]
    assert errors == sorted(errors, reverse=True)
    reduction = effect(THREE, c, t).variance_reduction
    assert reduction == pytest.approx(1 - (errors[3] / errors[0]) ** 2, rel=1e-9)


def test_the_variance_left_is_one_minus_the_squared_multiple_correlation() -> None:
    """With arms of one size, exactly: 1 - R^2 of the residuals within the arms."""
    c, t = users(5, 900), users(6, 900)
    within = {name: np.r_[c[name] - c[name].mean(), t[name] - t[name].mean()] for name in c}
    fit = sm.OLS(within["gmv"], np.column_stack([within[name] for name in THREE.covariates])).fit()
    assert effect(THREE, c, t).variance_reduction == pytest.approx(fit.rsquared, rel=1e-9)


def test_the_same_covariate_twice_changes_nothing() -> None:
    c, t = (dict(arm, again=2 * arm["gmv_pre"]) for arm in (users(7, 300), users(8, 300)))
    once = effect(Mean(name="gmv", column="gmv", covariates=("gmv_pre",)), c, t)
    twice = effect(Mean(name="gmv", column="gmv", covariates=("gmv_pre", "again")), c, t)
    assert twice.difference.value == pytest.approx(once.difference.value, rel=1e-9)
    assert twice.difference.standard_error == pytest.approx(once.difference.standard_error, rel=1e-9)


def test_the_units_of_a_covariate_change_nothing() -> None:
    c, t = users(9, 300), users(10, 300)
    plain = effect(THREE, c, t)
    cents = effect(THREE, *(dict(arm, balance=1e9 * arm["balance"] + 1e6) for arm in (c, t)))
    assert cents.difference.value == pytest.approx(plain.difference.value, rel=1e-7)
    assert cents.difference.standard_error == pytest.approx(plain.difference.standard_error, rel=1e-7)


def test_a_covariate_that_does_not_vary_is_left_out() -> None:
    c, t = (dict(arm, gmv_pre=0 * arm["gmv_pre"]) for arm in (users(11, 300), users(12, 300)))
    without = effect(Mean(name="gmv", column="gmv", covariates=("orders_pre", "balance")), c, t)
    assert effect(THREE, c, t).difference == without.difference
    moments = [sample_moments(THREE.needs, arm) for arm in (c, t)]
    assert cuped(Mean(name="gmv", column="gmv", covariate="gmv_pre"), *moments) is None


def test_a_ratio_adjusted_by_the_ratio_before_is_the_linearised_regression() -> None:
    """Each arm's ratio minus theta times the ratio before, theta by least squares of the linearised values."""
    metric = Ratio(name="ctr", numerator="clicks", denominator="views", covariate="clicks_pre/views_pre")
    c, t = visitors(13, 800), visitors(14, 1000, lift=0.1)

    def linear(arm: Columns, top: str, bottom: str) -> Array:
        r = arm[top].sum() / arm[bottom].sum()
        return np.asarray((arm[top] - r * arm[bottom]) / arm[bottom].mean())

    y, x = (np.r_[linear(c, *names), linear(t, *names)] for names in (("clicks", "views"), ("clicks_pre", "views_pre")))
    theta = float(x @ y / (x @ x))
    ours = effect(metric, c, t)
    assert ours.theta == pytest.approx((theta,), rel=1e-9)
    before = [arm["clicks_pre"].sum() / arm["views_pre"].sum() for arm in (c, t)]
    now = [arm["clicks"].sum() / arm["views"].sum() for arm in (c, t)]
    assert ours.difference.value == pytest.approx(now[1] - now[0] - theta * (before[1] - before[0]), rel=1e-9)
    residuals = [
        (linear(arm, "clicks", "views") - theta * linear(arm, "clicks_pre", "views_pre")).var(ddof=1)
        / len(arm["views"])
        for arm in (c, t)
    ]
    assert ours.difference.standard_error**2 == pytest.approx(sum(residuals), rel=1e-9)
    assert ours.variance_reduction is not None
    assert ours.variance_reduction > 0.2


def test_an_adjusted_ratio_misses_as_often_as_it_says() -> None:
    metric = Ratio(
        name="ctr", numerator="clicks", denominator="views", covariates=("clicks_pre/views_pre", "views_pre")
    )
    p = [effect(metric, visitors(s, 300), visitors(s + 10_000, 300)).difference.p for s in range(1500)]
    assert np.mean(np.array(p) <= 0.05) == pytest.approx(0.05, abs=0.02)


# --- post-stratification


def strata(seed: int, n: int = 600, shares: tuple[float, ...] = (0.5, 0.3, 0.2)) -> tuple[Columns, Columns]:
    """Two arms with users of three strata, by chance mixed differently."""
    rng = np.random.default_rng(seed)
    arms = []
    for size in (n, n + 150):
        stratum = rng.choice(len(shares), size, p=shares)
        arms.append({"gmv": rng.gamma(2, 1 + 4.0 * stratum), "stratum": stratum.astype(float)})
    return arms[0], arms[1]


def by_stratum(metric: Metric, arms: tuple[Columns, Columns]) -> dict[str, tuple[Moments, Moments]]:
    def part(arm: Columns, stratum: float) -> Moments:
        chosen = arm["stratum"] == stratum
        return sample_moments(metric.needs, {name: values[chosen] for name, values in arm.items()})

    names = np.unique(np.r_[arms[0]["stratum"], arms[1]["stratum"]])
    return {str(name): (part(arms[0], name), part(arms[1], name)) for name in names}


def test_post_stratification_is_the_regression_with_all_interactions() -> None:
    """Lin 2013: the arm's coefficient with strata centred on both arms, and its HC2 variance (statsmodels)."""
    c, t = strata(1)
    y, stratum = (np.r_[c[name], t[name]] for name in ("gmv", "stratum"))
    arm = np.r_[np.zeros(len(c["gmv"])), np.ones(len(t["gmv"]))]
    dummies = np.column_stack([stratum == s for s in (1, 2)]).astype(float)
    dummies -= dummies.mean(axis=0)
    design = np.column_stack([np.ones_like(y), arm, dummies, dummies * arm[:, None]])
    fit = sm.OLS(y, design).fit(cov_type="HC2")
    ours = compare(GMV, *post_stratify(by_stratum(GMV, (c, t))))
    assert isinstance(ours, Effect)
    assert ours.difference.value == pytest.approx(fit.params[1], rel=1e-9)
    assert ours.difference.standard_error == pytest.approx(fit.bse[1], rel=1e-9)


def test_one_stratum_is_no_stratum() -> None:
    c, t = strata(2, shares=(1.0,))
    assert compare(GMV, *post_stratify(by_stratum(GMV, (c, t)))) == effect(GMV, c, t)


def test_post_stratification_takes_out_the_chance_in_the_mix() -> None:
    """Over many A/A tests: less variance, no bias, and nominal coverage."""
    plain, stratified, p = [], [], []
    for seed in range(1000):
        arms = strata(seed, n=200)
        comparison = compare(GMV, *post_stratify(by_stratum(GMV, arms)))
        assert isinstance(comparison, Effect)
        stratified.append(comparison.difference.value)
        p.append(comparison.difference.p)
        plain.append(effect(GMV, *arms).difference.value)
    assert np.std(stratified) < 0.9 * np.std(plain)
    assert abs(np.mean(stratified)) < 4 * np.std(stratified) / 1000**0.5
    assert np.mean(np.array(p) <= 0.05) == pytest.approx(0.05, abs=0.02)


def test_ratios_and_covariates_go_through_post_stratification_too() -> None:
    metric = Ratio(name="ctr", numerator="clicks", denominator="views", covariate="views_pre")
    arms = tuple(dict(visitors(seed, 500), stratum=np.arange(500) % 2.0) for seed in (3, 4))
    comparison = compare(metric, *post_stratify(by_stratum(metric, arms)))  # type: ignore[arg-type]
    assert isinstance(comparison, Effect)
    plain = effect(metric, *arms)  # the strata are of one size in both arms, so that nothing is weighed
    assert comparison.control.raw == pytest.approx(plain.control.raw, rel=1e-12)
    assert comparison.difference.value == pytest.approx(plain.difference.value, rel=0.05)
    assert comparison.theta is not None


def test_the_order_of_strata_changes_nothing_and_tails_are_kept() -> None:
    needs = by_stratum(GMV, strata(5))
    forward, backward = post_stratify(needs), post_stratify(dict(reversed(needs.items())))
    assert forward == backward
    (column,) = GMV.inputs
    assert forward[0].tails[column].nonzero == sum(c.tails[column].nonzero for c, _ in needs.values())
    assert forward[0].tails[column].largest == max(c.tails[column].largest for c, _ in needs.values())


def test_a_stratum_with_one_unit_is_refused_by_name() -> None:
    two, one = (sample_moments(GMV.needs, {"gmv": values}) for values in ([1.0, 2.0], [1.0]))
    with pytest.raises(ArmError, match=r"Stratum 'new' has 2 control and 1 treatment unit\(s\)"):
        post_stratify({"new": (two, one), "known": (two, two)})
    with pytest.raises(ArmError, match="no strata"):
        post_stratify({})

"""The posterior equals numerical integration, and has the right limits for flat and narrow priors."""

from math import inf

import numpy as np
import pytest
from scipy import integrate, stats

from analysis.bayes import Posterior, Prior, posterior
from analysis.errors import ArgumentError
from analysis.inference import ArmEstimate, Effect, Undefined, effect_of, lift_error


def an_effect(treatment: float = 10.4, control: float = 10.0, variance: float = 0.04) -> Effect:
    arms = [ArmEstimate(2000, value, value, variance, variance, variance) for value in (control, treatment)]
    result = effect_of(*arms)
    assert isinstance(result, Effect)
    return result


def the_posterior(effect: Effect, prior: Prior, **options: object) -> Posterior:
    result = posterior(effect, prior, **options)  # type: ignore[arg-type]
    assert isinstance(result, Posterior), result
    return result


@pytest.mark.parametrize("scale", ["lift", "difference"])
@pytest.mark.parametrize("prior", [Prior(0.0, 0.03), Prior(-0.05, 0.5)])
def test_the_posterior_is_prior_times_likelihood(prior: Prior, scale: str) -> None:
    effect = an_effect()
    value, error = effect.difference.value, effect.difference.standard_error
    if scale == "lift":
        value, error = value / 10.0, lift_error(effect.control, effect.treatment)

    def density(x: float) -> float:
        return float(stats.norm.pdf(value, x, error) * stats.norm.pdf(x, prior.mean, prior.sd))

    ours = the_posterior(effect, prior, scale=scale)
    ends = (ours.mean - 12 * ours.sd, 0.0, ours.mean + 12 * ours.sd)

    def integral(f: object, a: float, b: float) -> float:
        return float(integrate.quad(f, a, b, epsabs=0, epsrel=1e-11, points=[ours.mean])[0])

    total = integral(density, ends[0], ends[2])
    assert ours.mean == pytest.approx(integral(lambda x: x * density(x), ends[0], ends[2]) / total, rel=1e-8)
    assert ours.chance_to_win == pytest.approx(integral(density, ends[1], ends[2]) / total, rel=1e-8)
    assert ours.loss_if_shipped == pytest.approx(integral(lambda x: -x * density(x), ends[0], 0) / total, rel=1e-7)
    assert ours.loss_if_not == pytest.approx(integral(lambda x: x * density(x), 0, ends[2]) / total, rel=1e-8)


def test_under_a_flat_prior_the_chance_to_win_belongs_to_the_one_sided_p() -> None:
    effect = an_effect()
    flat = the_posterior(effect, Prior(0.0, inf), scale="difference")
    z = effect.difference.value / effect.difference.standard_error
    assert flat.chance_to_win == pytest.approx(stats.norm.cdf(z), rel=1e-12)
    half = stats.norm.isf(0.025) * effect.difference.standard_error
    assert (flat.low, flat.high) == pytest.approx((effect.difference.value - half, effect.difference.value + half))


def test_a_sure_prior_is_not_moved() -> None:
    sure = the_posterior(an_effect(), Prior(0.0, 1e-9))
    assert sure.mean == pytest.approx(0.0, abs=1e-9)
    assert sure.chance_to_win == pytest.approx(0.5, abs=1e-6)


def test_a_prior_from_past_experiments_shrinks_a_surprise() -> None:
    surprise = an_effect(treatment=13.0)
    shrunk = the_posterior(surprise, Prior(0.0, 0.02))
    assert surprise.lift is not None
    assert 0 < shrunk.mean < surprise.lift / 2


def test_where_less_is_better_the_treatment_wins_by_being_lower() -> None:
    up, down = (the_posterior(an_effect(), Prior(0.0, 0.1), direction=d) for d in ("increase", "decrease"))
    assert up.chance_to_win + down.chance_to_win == pytest.approx(1)
    assert (up.loss_if_shipped, up.loss_if_not) == pytest.approx((down.loss_if_not, down.loss_if_shipped))


def test_credible_intervals_cover_effects_drawn_from_the_prior() -> None:
    rng = np.random.default_rng(1)
    prior, hits = Prior(0.02, 0.05), []
    for lift in rng.normal(prior.mean, prior.sd, 2000):
        control, treatment = rng.normal(10.0, 0.2), rng.normal(10.0 * (1 + lift), 0.2)
        result = the_posterior(an_effect(treatment, control), prior)
        hits.append(result.low <= lift <= result.high)
    assert np.mean(hits) == pytest.approx(0.95, abs=0.02)


def test_a_control_that_may_be_zero_has_no_posterior_of_a_lift() -> None:
    near = an_effect(control=0.1)
    result = posterior(near, Prior(0.0, 0.1))
    assert isinstance(result, Undefined)
    assert "difference" in result.reason
    assert isinstance(posterior(near, Prior(0.0, 0.1), scale="difference"), Posterior)


def test_a_prior_without_spread_is_refused() -> None:
    with pytest.raises(ArgumentError, match="sd is 0"):
        Prior(0.0, 0.0)
    with pytest.raises(ArgumentError, match="mean is nan"):
        Prior(float("nan"), 1.0)

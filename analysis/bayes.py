"""The posterior of an effect under a stated prior: probability to win, expected loss.

The likelihood of the lift is normal around its estimate, with the standard error of the delta method. The prior is
normal too, so the posterior is their average weighted by precision. A flat prior (sd = infinity) gives the probability
to win that corresponds to the one-sided p-value. A prior from past experiments shrinks surprising results, which is its
main benefit. Stopping as soon as the probability to win is high controls no error rate: use `sequential.monitor` for
that.
"""

from dataclasses import dataclass
from math import erf, exp, isnan, pi, sqrt

from analysis.errors import ArgumentError
from analysis.inference import Effect, Scale, Undefined, lift_error, lift_interval
from analysis.metrics import Direction
from analysis.validation import check_scalar, check_share

LEAST_SD = 1e-12  # a prior that is narrower leaves no posterior to compute with


@dataclass(frozen=True)
class Prior:
    """Normal prior of the lift or of the difference.

    Attributes:
        mean: Mean of the prior.
        sd: Standard deviation; math.inf is flat. 0.05 on the lift means that most lifts are within +-10 %.

    Raises:
        ArgumentError: A value is out of range.
    """

    mean: float
    sd: float

    def __post_init__(self) -> None:
        check_scalar(self.mean, "The prior's mean")
        if isnan(self.sd) or self.sd < LEAST_SD:
            raise ArgumentError(
                f"The prior's sd is {self.sd!r}, and must be above 0, at least {LEAST_SD:g} (math.inf: a flat prior)."
            )


@dataclass(frozen=True)
class Posterior:
    """Normal posterior on the prior's scale.

    Attributes:
        prior: The prior.
        mean: Posterior mean.
        sd: Posterior standard deviation.
        low: Lower bound of the central credible interval.
        high: Upper bound of the central credible interval.
        chance_to_win: Probability that the treatment is better.
        loss_if_shipped: Expected loss from shipping the treatment: the mean of how much worse it is, counting 0 where
            it is better.
        loss_if_not: Expected loss from keeping the control.
    """

    prior: Prior
    mean: float
    sd: float
    low: float
    high: float
    chance_to_win: float
    loss_if_shipped: float
    loss_if_not: float


def posterior(
    effect: Effect,
    prior: Prior,
    *,
    direction: Direction = "increase",
    alpha: float = 0.05,
    scale: Scale = "lift",
) -> Posterior | Undefined:
    """Compute the posterior of an effect.

    The prior has no default, because every default would be an opinion.

    Args:
        effect: The effect.
        prior: Prior of the effect.
        direction: The direction that is good.
        alpha: 1 - coverage of the credible interval.
        scale: Scale of the prior.

    Returns:
        The posterior; `Undefined` on the scale `lift` where Fieller's interval is unbounded.

    Raises:
        ArgumentError: `alpha` is out of range.
    """
    from scipy.special import ndtri

    check_share(alpha, "alpha")
    if scale == "lift":
        control, treatment = effect.control, effect.treatment
        if effect.lift is None or lift_interval(control, treatment, alpha=alpha).shape != "bounded":
            return Undefined("the control's value is not clearly above 0; use the difference instead of the lift")
        estimate, error = effect.lift, lift_error(control, treatment)
    else:
        estimate, error = effect.difference.value, effect.difference.standard_error
    ratio = error / prior.sd
    weight = 1 / (1 + ratio * ratio)
    mean = weight * estimate + (1 - weight) * prior.mean
    sd = error * sqrt(weight)
    half = float(ndtri(1 - alpha / 2)) * sd
    gain = mean if direction == "increase" else -mean
    below = _mean_below_zero(gain, sd)
    return Posterior(
        prior=prior,
        mean=mean,
        sd=sd,
        low=mean - half,
        high=mean + half,
        chance_to_win=_phi(gain / sd),
        loss_if_shipped=below,
        loss_if_not=gain + below,
    )


def _mean_below_zero(mean: float, sd: float) -> float:
    """Return E max(-X, 0) of a normal X."""
    z = mean / sd
    return sd * (exp(-z * z / 2) / sqrt(2 * pi) - z * _phi(-z))


def _phi(z: float) -> float:
    return 0.5 * (1 + erf(z / sqrt(2)))

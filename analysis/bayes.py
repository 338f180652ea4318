"""The posterior of an effect under a prior that is stated: chance to win, expected loss.

The likelihood of the lift is taken as normal around its estimate with the delta method's standard error, and the prior
is normal too, so that the posterior is the average of the two by their precisions. A flat prior (sd = infinity) gives
the chance to win that belongs to the one-sided p-value; a prior from past experiments shrinks surprising results, which
is most of what is gained. Stopping when the chance to win is high keeps no error rate: monitor with
`sequential.monitor`.
"""

from dataclasses import dataclass
from math import erf, exp, inf, isnan, pi, sqrt

from analysis.errors import ArgumentError
from analysis.inference import Effect, Scale, Undefined, lift_error, lift_interval
from analysis.metrics import Direction
from analysis.validation import check_scalar, check_share


@dataclass(frozen=True)
class Prior:
    """Normal prior of the lift or of the difference. sd = math.inf is flat. 0.05 on the lift: mostly within 10 %."""

    mean: float
    sd: float

    def __post_init__(self) -> None:
        check_scalar(self.mean, "The prior's mean")
        if isnan(self.sd) or self.sd <= 0:
            raise ArgumentError(f"The prior's sd is {self.sd!r}, and must be above 0 (math.inf for a flat prior).")


@dataclass(frozen=True)
class Posterior:
    """Normal posterior on the prior's scale.

    low, high: the central credible interval. chance_to_win: probability that the treatment is better.
    loss_if_shipped: expected loss from shipping the treatment, that is, the mean of how much worse it is, 0 where it is
    better; loss_if_not: the same for keeping the control.
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
    """Posterior of the effect. The prior has no default, because every default is somebody's opinion.

    On the scale `lift`, Undefined where the control's value is not clearly above 0 (Fieller's interval is unbounded).
    """
    from scipy.special import ndtri

    check_share(alpha, "alpha")
    if scale == "lift":
        control, treatment = effect.control, effect.treatment
        if effect.lift is None or lift_interval(control, treatment, alpha=alpha).shape != "bounded":
            return Undefined("the control's value is not clearly above 0; take the difference instead of the lift")
        estimate, error = effect.lift, lift_error(control, treatment)
    else:
        estimate, error = effect.difference.value, effect.difference.standard_error
    weight = 1.0 if prior.sd == inf else prior.sd**2 / (prior.sd**2 + error**2)
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
    """E max(-X, 0) of a normal X."""
    z = mean / sd
    return sd * (exp(-z * z / 2) / sqrt(2 * pi) - z * _phi(-z))


def _phi(z: float) -> float:
    return 0.5 * (1 + erf(z / sqrt(2)))

"""The interval of an effect for a critical value that comes from a sequential test."""

from dataclasses import dataclass

from analysis.inference import Effect, IntervalMethod, LiftInterval, lift_interval, standard_error
from analysis.validation import check_scalar


@dataclass(frozen=True)
class RepeatedInterval:
    """Intervals that hold at all looks together.

    Attributes:
        critical: Critical value, in standard errors to either side.
        low: Lower bound of the difference, in the metric's unit.
        high: Upper bound of the difference, in the metric's unit.
        lift: Interval of the relative lift. It excludes 0 exactly when low and high do. None where the control's
            value is not above 0.
    """

    critical: float
    low: float
    high: float
    lift: LiftInterval | None

    @property
    def rejects(self) -> bool:
        """Whether the interval rules out a difference of 0."""
        return self.low > 0 or self.high < 0


def repeated_interval(effect: Effect, critical: float, *, method: IntervalMethod = "fieller") -> RepeatedInterval:
    """Compute the repeated interval of an effect.

    Args:
        effect: The effect at this look.
        critical: Critical value of this look, from a `Look` of a design or a confidence sequence.
        method: Method of the lift's interval.

    Raises:
        ArgumentError: The critical value is not a finite number above 0.
    """
    check_scalar(critical, "critical", gt=0)
    value, arms = effect.difference.value, (effect.control, effect.treatment)
    low, high = (value - sign * critical * standard_error(*arms, sign) for sign in (1, -1))
    lift = None
    if effect.interval is not None:
        lift = lift_interval(*arms, method=method, critical=critical)
    return RepeatedInterval(critical, low, high, lift)

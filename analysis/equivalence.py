"""Non-inferiority and equivalence, with margins on the lift or on the difference.

"Not significantly worse" does not show that a change is harmless: a test without users never finds anything. A
guardrail therefore has a margin, the largest acceptable loss, and its test must *reject* that the loss is larger. With
a margin L0 on the lift, the test compares D - L0 C with 0, one-sided. By construction, Fieller's interval at 1 - 2
alpha lies entirely on the good side of L0 exactly when the test rejects (where the interval is bounded). The two
one-sided tests of Schuirmann (1987) do this on both sides.
"""

from dataclasses import dataclass
from math import sqrt

from analysis.errors import ArgumentError
from analysis.inference import Effect, LiftInterval, Scale, degrees_of_freedom, facing, lift_interval, welch
from analysis.metrics import Direction
from analysis.validation import check_scalar, check_share


@dataclass(frozen=True)
class MarginTest:
    """Test that the effect is beyond one margin, in the good direction.

    Attributes:
        margin: The margin, with its sign.
        t: Test statistic.
        df: Degrees of freedom.
        p: One-sided p-value.
    """

    margin: float
    t: float
    df: float
    p: float


@dataclass(frozen=True)
class NonInferiority:
    """Result of a test of non-inferiority.

    Attributes:
        test: The test against the margin.
        holds: The effect is shown to be no worse than the margin.
        bounds: 1 - 2 alpha interval, on the margin's scale.
        scale: Scale of the margin.
    """

    test: MarginTest
    holds: bool
    bounds: LiftInterval
    scale: Scale


@dataclass(frozen=True)
class Equivalence:
    """Result of a test of equivalence.

    Attributes:
        above: Test that the effect is above the lower margin.
        below: Test that the effect is below the upper margin.
        p: The larger of the two one-sided p-values.
        holds: The effect is shown to lie between the margins.
        bounds: 1 - 2 alpha interval, on the margins' scale.
        scale: Scale of the margins.
    """

    above: MarginTest
    below: MarginTest
    p: float
    holds: bool
    bounds: LiftInterval
    scale: Scale


def non_inferiority(
    effect: Effect,
    margin: float,
    *,
    direction: Direction = "increase",
    alpha: float = 0.05,
    scale: Scale = "lift",
) -> NonInferiority:
    """Test that the treatment is not worse than the control by `margin` or more.

    Args:
        effect: The effect.
        margin: The margin, above 0: 0.02 is a loss of 2 % of the control's value on the scale `lift`, or of 0.02 of the
            metric's unit on the scale `difference`.
        direction: The direction that is good; for `decrease`, a rise is a loss.
        alpha: One-sided level.
        scale: Scale of the margin.

    Raises:
        ArgumentError: An argument is out of range, or the lift is undefined.
    """
    check_scalar(margin, "margin", gt=0)
    sign = 1 if direction == "increase" else -1
    test = _against(effect, -sign * margin, sign, scale)
    return NonInferiority(test, test.p < check_share(alpha, "alpha"), _bounds(effect, alpha, scale), scale)


def equivalence(effect: Effect, low: float, high: float, *, alpha: float = 0.05, scale: Scale = "lift") -> Equivalence:
    """Test that the effect lies between two margins, by two one-sided tests (TOST).

    Args:
        effect: The effect.
        low: Lower margin, below 0.
        high: Upper margin, above 0.
        alpha: Level of each one-sided test.
        scale: Scale of the margins.

    Raises:
        ArgumentError: An argument is out of range, or the lift is undefined.
    """
    check_scalar(low, "low", lt=0)
    check_scalar(high, "high", gt=0)
    above, below = _against(effect, low, 1, scale), _against(effect, high, -1, scale)
    p = max(above.p, below.p)
    return Equivalence(above, below, p, p < check_share(alpha, "alpha"), _bounds(effect, alpha, scale), scale)


def _against(effect: Effect, null: float, sign: int, scale: Scale) -> MarginTest:
    """Test one-sided that effect <= null (sign 1) or effect >= null (sign -1)."""
    from scipy.special import stdtr

    c, t = facing(effect.control, effect.treatment, sign)
    gap, variance, df = effect.difference.value - null, c.variance + t.variance, degrees_of_freedom(c, t)
    if scale == "lift":
        if c.raw <= 0:
            raise ArgumentError(
                f"The control's value is {c.raw:g}, and a margin on the lift needs it above 0. "
                "Use scale='difference' and a margin in the metric's unit."
            )
        gap = effect.difference.value - null * c.raw
        variance += 2 * null * c.covariance + null**2 * c.raw_variance
    if variance <= 0:  # a quantile with a single value in both arms: nothing is shown
        return MarginTest(null, 0.0, df, 1.0)
    statistic = gap / sqrt(variance)
    return MarginTest(null, statistic, df, float(stdtr(df, -sign * statistic)))


def _bounds(effect: Effect, alpha: float, scale: Scale) -> LiftInterval:
    if scale == "lift":
        return lift_interval(effect.control, effect.treatment, alpha=2 * alpha)
    d = welch(effect.control, effect.treatment, alpha=2 * alpha)
    return LiftInterval(d.low, d.high, "bounded", "fieller")

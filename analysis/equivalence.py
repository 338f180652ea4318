"""Is it not worse, is it the same? Non-inferiority and equivalence, with margins on the lift or on the difference.

"Not significantly worse" is no proof of harmlessness: a test without users never finds anything. A guardrail therefore
names a margin, the loss that would still be accepted, and has to *reject* that the loss is larger. With margins on the
lift the test is that of D - L0 C against 0, one-sided; by its construction Fieller's interval at 1 - 2 alpha lies
wholly on the good side of L0 exactly when the test rejects (where the interval is bounded). The two one-sided tests of
Schuirmann (1987) do this on both sides.
"""

from dataclasses import dataclass
from math import sqrt

from analysis.errors import ArgumentError
from analysis.inference import Effect, LiftInterval, Scale, degrees_of_freedom, facing, lift_interval, welch
from analysis.metrics import Direction
from analysis.validation import check_scalar, check_share


@dataclass(frozen=True)
class MarginTest:
    """Test that the effect is beyond one margin, in the direction that is good. p: one-sided."""

    margin: float
    t: float
    df: float
    p: float


@dataclass(frozen=True)
class NonInferiority:
    """holds: the effect is shown to be no worse than the margin. bounds: 1 - 2 alpha interval on the margin's scale."""

    test: MarginTest
    holds: bool
    bounds: LiftInterval
    scale: Scale


@dataclass(frozen=True)
class Equivalence:
    """holds: the effect is shown to lie between the margins. p: the larger of the two one-sided ones."""

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
    """Show that the treatment is not worse than the control by `margin` or more.

    margin: above 0; 0.02 is a loss of 2 % of the control's value (scale `lift`), or 0.02 of the metric's unit (scale
    `difference`). direction: which is good; for `decrease` the loss is a rise. alpha: one-sided. Errors: ArgumentError.
    """
    check_scalar(margin, "margin", gt=0)
    sign = 1 if direction == "increase" else -1
    test = _against(effect, -sign * margin, sign, scale)
    return NonInferiority(test, test.p < check_share(alpha, "alpha"), _bounds(effect, alpha, scale), scale)


def equivalence(effect: Effect, low: float, high: float, *, alpha: float = 0.05, scale: Scale = "lift") -> Equivalence:
    """Show that the effect lies between two margins, low < 0 < high, by two one-sided tests (TOST) at level alpha."""
    check_scalar(low, "low", lt=0)
    check_scalar(high, "high", gt=0)
    above, below = _against(effect, low, 1, scale), _against(effect, high, -1, scale)
    p = max(above.p, below.p)
    return Equivalence(above, below, p, p < check_share(alpha, "alpha"), _bounds(effect, alpha, scale), scale)


def _against(effect: Effect, null: float, sign: int, scale: Scale) -> MarginTest:
    """One-sided test of effect <= null (sign 1) or effect >= null (sign -1)."""
    from scipy.special import stdtr

    c, t = facing(effect.control, effect.treatment, sign)
    gap, variance, df = effect.difference.value - null, c.variance + t.variance, degrees_of_freedom(c, t)
    if scale == "lift":
        if c.raw <= 0:
            raise ArgumentError(
                f"The control's value is {c.raw:g}, and a margin on the lift needs it above 0. "
                "Take scale='difference' and a margin in the metric's unit."
            )
        gap = effect.difference.value - null * c.raw
        variance += 2 * null * c.covariance + null**2 * c.raw_variance
    if variance <= 0:  # a quantile that sits on one value in both arms: nothing is shown
        return MarginTest(null, 0.0, df, 1.0)
    statistic = gap / sqrt(variance)
    return MarginTest(null, statistic, df, float(stdtr(df, -sign * statistic)))


def _bounds(effect: Effect, alpha: float, scale: Scale) -> LiftInterval:
    if scale == "lift":
        return lift_interval(effect.control, effect.treatment, alpha=2 * alpha)
    d = welch(effect.control, effect.treatment, alpha=2 * alpha)
    return LiftInterval(d.low, d.high, "bounded", "fieller")

"""Variance reduction: CUPED with any number of covariates, and post-stratification.

CUPED subtracts theta' (h(arm) - h(both arms)), where h are quantities measured before exposure, whose expectation is
the same in both arms. A covariate is itself a `Metric`: for a mean, the mean per user of the weeks before; for a
click-through rate, the click-through rate of the weeks before. With gradients g_f and g_h of metric and covariates (the
delta method) and covariances S within the arms, pooled by n - 1,

    theta = (G_h' S G_h)^-1 G_h' S g_f,

which for means is the coefficient of an analysis of covariance. Post-stratification weighs each stratum by its share of
both arms. It removes chance differences in the mix of strata, for example of new and returning users.

References: Deng, Xu, Kohavi, Walker 2013 (CUPED); Deng, Knoblich, Lu 2018 (delta method); Miratrix, Sekhon, Yu 2013
(post-stratification); Lin 2013 (regression adjustment in experiments).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from analysis.aggregates import Moments, Tail
from analysis.columns import Column
from analysis.errors import ArmError
from analysis.metrics import Metric

# Singular values of the covariates' correlation matrix below this share of the largest count as zero: two equal
# covariates must not divide noise by noise.
COLLINEAR = 1e-10


@dataclass(frozen=True)
class Adjustment:
    """The adjustment of a metric by its covariates.

    Attributes:
        covariates: The covariates that vary, in the order of declaration.
        theta: Coefficient of each covariate.
        centres: Value of each covariate over both arms.
    """

    covariates: tuple[Metric, ...]
    theta: tuple[float, ...]
    centres: tuple[float, ...]

    def shift(self, arm: Moments) -> float:
        """Return the amount to subtract from the metric's value in an arm: theta' (h(arm) - h(both arms))."""
        terms = zip(self.covariates, self.theta, self.centres, strict=True)
        return sum(theta * (_value(h, arm) - centre + lost_digits(h, arm)) for h, theta, centre in terms)

    def gradient(self, arm: Moments) -> dict[Column, float]:
        """Return the derivative of `shift` by the arm's means."""
        total: dict[Column, float] = {}
        for covariate, theta in zip(self.covariates, self.theta, strict=True):
            for column, slope in covariate.gradient(arm.means).items():
                total[column] = total.get(column, 0.0) + theta * slope
        return total


def lost_digits(metric: Metric, arm: Moments) -> float:
    """Return what the rounding to a double lost of a metric's value; the value must be defined.

    Where values are large against their spread (timestamps), a difference of rounded values would be wrong.
    """
    if not any(arm.rests.get(column) for column in metric.inputs):
        return 0.0
    exact: Any = {c: Fraction(arm.means[c]) + Fraction(arm.rests.get(c, 0.0)) for c in metric.inputs}
    return float((metric.value(exact) or 0) - Fraction(_value(metric, arm)))


def bilinear(left: Mapping[Column, float], right: Mapping[Column, float], arm: Moments) -> float:
    """Return left' S right with the arm's covariances S: the covariance per unit of two linear combinations."""
    return sum(g * h * arm.covariance(a, b) for a, g in left.items() for b, h in right.items())


def cuped(metric: Metric, control: Moments, treatment: Moments) -> Adjustment | None:
    """Compute the adjustment by the metric's covariates; None if none of them varies. Both arms need two units."""
    arms = (control, treatment)
    usable = [h for h in metric.adjusters if all(h.value(arm.means) is not None for arm in arms)]
    slopes = [[h.gradient(arm.means) for arm in arms] for h in usable]
    own = [metric.gradient(arm.means) for arm in arms]

    def pooled(left: Sequence[Mapping[Column, float]], right: Sequence[Mapping[Column, float]]) -> float:
        return sum((arm.n - 1) * bilinear(g, h, arm) for g, h, arm in zip(left, right, arms, strict=True))

    varying = [index for index, slope in enumerate(slopes) if pooled(slope, slope) > 0]
    if not varying:
        return None
    usable, slopes = [usable[i] for i in varying], [slopes[i] for i in varying]
    # Scale each covariate by its own spread: cents and counts in one matrix would be ill-conditioned.
    spread = np.sqrt([pooled(slope, slope) for slope in slopes])
    matrix = np.array([[pooled(a, b) for b in slopes] for a in slopes]) / np.outer(spread, spread)
    right = np.array([pooled(own, slope) for slope in slopes]) / spread
    theta = np.linalg.lstsq(matrix, right, rcond=COLLINEAR)[0] / spread
    centre = {
        column: (control.n * control.means[column] + treatment.n * treatment.means[column]) / (control.n + treatment.n)
        for h in usable
        for column in h.inputs
    }
    centres = tuple(float(h.value(centre) or 0.0) for h in usable)
    return Adjustment(tuple(usable), tuple(float(value) for value in theta), centres)


def post_stratify(strata: Mapping[str, tuple[Moments, Moments]]) -> tuple[Moments, Moments]:
    """Return the moments of control and treatment as if each stratum had the same share in both.

    Pass them to `compare` as usual; the control value in the lift is then the post-stratified one. With w_s the
    stratum's share of all units, the means are sum(w_s m_s), and the covariances times 1/n are sum(w_s^2 S_s / n_s).

    Args:
        strata: Moments of control and treatment in each stratum. Strata must be known before exposure.

    Raises:
        ArmError: There are no strata, or a stratum has fewer than two units in an arm.
    """
    if not strata:
        raise ArmError("There are no strata. Give at least one, or compare the arms directly.")
    for name, arms in strata.items():
        if min(arm.n for arm in arms) < 2:
            raise ArmError(
                f"Stratum {name!r} has {arms[0].n} control and {arms[1].n} treatment unit(s), and each needs two. "
                "Merge it with another stratum."
            )
    names = sorted(strata)
    sizes = np.array([sum(arm.n for arm in strata[name]) for name in names], dtype=float)
    weights = (sizes / sizes.sum()).tolist()
    control = _weighted([strata[name][0] for name in names], weights)
    return control, _weighted([strata[name][1] for name in names], weights)


def _weighted(parts: Sequence[Moments], weights: Sequence[float]) -> Moments:
    n = sum(part.n for part in parts)
    means, rests = {}, {}
    for c in parts[0].means:
        terms = [(Fraction(w), part) for w, part in zip(weights, parts, strict=True)]
        exact = sum((w * (Fraction(part.means[c]) + Fraction(part.rests.get(c, 0.0))) for w, part in terms), Fraction())
        means[c] = float(exact)
        rests[c] = float(exact - Fraction(means[c]))
    covariances = {
        (a, b): n * sum(w**2 * part.covariance(a, b) / part.n for w, part in zip(weights, parts, strict=True))
        for a, b in parts[0].covariances or {}
    }
    tails = {
        c: Tail(sum(part.tails[c].nonzero for part in parts), max(part.tails[c].largest for part in parts))
        for c in parts[0].tails
    }
    return Moments(n, means, covariances, tails, rests)


def _value(covariate: Metric, arm: Moments) -> float:
    value = covariate.value(arm.means)
    assert value is not None, "cuped() drops covariates that are undefined in an arm"
    return value

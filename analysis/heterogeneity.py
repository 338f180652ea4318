"""Does the effect differ between segments? One test of that, and each segment's effect, adjusted for their number.

Searching segments until one looks good is the most common way to find effects that do not exist. So one test comes
first: Cochran's Q tests that all segments share one effect,

    Q = sum w_s (e_s - sum w e / sum w)^2,   w_s = 1 / Var(e_s),   chi-square with S - 1 degrees of freedom,

which is the Wald test of all segment-by-arm interactions with HC2 variances. The segments' own p-values are adjusted
for their number. All results are exploratory: confirm a remarkable segment with a new experiment. Segments must be
known before exposure.

Reference: Cochran 1954.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from analysis.aggregates import Moments
from analysis.errors import ArmError
from analysis.inference import Effect, IntervalMethod, Scale, Undefined, compare, lift_error
from analysis.metrics import Metric
from analysis.multiple_testing import Correction, adjust


@dataclass(frozen=True)
class SegmentEffect:
    """The effect in one segment.

    Attributes:
        segment: The segment.
        effect: The effect in it.
        p_adjusted: p-value adjusted for the number of segments; None where the effect is undefined.
    """

    segment: str
    effect: Effect | Undefined
    p_adjusted: float | None


@dataclass(frozen=True)
class Interaction:
    """Cochran's Q over the segments whose effect is defined.

    Attributes:
        scale: Scale of the effects.
        common: Common effect of all segments, weighted by inverse variances.
        statistic: Cochran's Q.
        df: Degrees of freedom.
        p: p-value of the test that all segments share one effect.
    """

    scale: Scale
    common: float
    statistic: float
    df: int
    p: float


@dataclass(frozen=True)
class Heterogeneity:
    """Effects by segment.

    Attributes:
        segments: The effect in each segment, sorted by segment.
        interaction: Test of a difference between segments; None if the effect is defined in fewer than two.
    """

    segments: tuple[SegmentEffect, ...]
    interaction: Interaction | None

    def segment(self, name: str) -> SegmentEffect:
        """Return the effect in a segment.

        Raises:
            LookupError: There is no such segment.
        """
        for part in self.segments:
            if part.segment == name:
                return part
        raise LookupError(f"There is no segment {name!r}; there are {', '.join(s.segment for s in self.segments)}.")


def by_segment(
    metric: Metric,
    segments: Mapping[str, tuple[Moments, Moments]],
    *,
    alpha: float = 0.05,
    method: IntervalMethod = "fieller",
    scale: Scale = "lift",
    correction: Correction = "holm",
) -> Heterogeneity:
    """Compute the effect in each segment and test whether it differs between segments.

    Args:
        metric: The metric.
        segments: Moments of control and treatment in each segment.
        alpha: 1 - coverage of the intervals.
        method: Method of the lift's interval.
        scale: Scale on which all segments share one effect if there is no interaction. A treatment that multiplies the
            GMV of everyone by the same factor has one lift and many differences.
        correction: Correction of the segments' p-values.

    Raises:
        ArmError: There are no segments.
    """
    if not segments:
        raise ArmError("There are no segments. Give the moments of at least one.")
    effects = {name: compare(metric, *segments[name], alpha=alpha, method=method) for name in sorted(segments)}
    p_values = [effect.difference.p if isinstance(effect, Effect) else None for effect in effects.values()]
    adjusted = adjust(p_values, correction)
    parts = tuple(SegmentEffect(name, effect, p) for (name, effect), p in zip(effects.items(), adjusted, strict=True))
    defined = [effect for effect in effects.values() if isinstance(effect, Effect)]
    return Heterogeneity(parts, _interaction(defined, scale))


def _interaction(effects: Sequence[Effect], scale: Scale) -> Interaction | None:
    from scipy.special import chdtrc

    if scale == "lift":
        pairs = [(e.lift, lift_error(e.control, e.treatment)) for e in effects if e.lift is not None]
    else:
        pairs = [(e.difference.value, e.difference.standard_error) for e in effects]
    pairs = [(value, error) for value, error in pairs if error > 0]
    if len(pairs) < 2:
        return None
    weights = [1 / error**2 for _, error in pairs]
    common = sum(w * value for w, (value, _) in zip(weights, pairs, strict=True)) / sum(weights)
    statistic = sum(w * (value - common) ** 2 for w, (value, _) in zip(weights, pairs, strict=True))
    df = len(pairs) - 1
    return Interaction(scale, common, statistic, df, float(chdtrc(df, statistic)))

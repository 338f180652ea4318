"""Does the effect differ between segments? One test of that, and each segment's effect, corrected for their number.

Looking into segments until one shines is the commonest way to fool oneself. The question comes first: Cochran's Q tests
that all segments share one effect,

    Q = sum w_s (e_s - sum w e / sum w)^2,   w_s = 1 / Var(e_s),   chi-square with S - 1 degrees of freedom,

which is the Wald test of all segment-by-arm interactions with HC2 variances. The segments' own p-values are adjusted
for their number. All of it is exploratory: a segment that stands out deserves an experiment of its own. Segments must
be known before exposure.

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
    """The effect in one segment. p_adjusted: for the number of segments; None where there is no effect to test."""

    segment: str
    effect: Effect | Undefined
    p_adjusted: float | None


@dataclass(frozen=True)
class Interaction:
    """Cochran's Q over the segments that have an effect. common: the effect by inverse variances."""

    scale: Scale
    common: float
    statistic: float
    df: int
    p: float


@dataclass(frozen=True)
class Heterogeneity:
    """interaction: None with fewer than two segments in which the effect is defined on the scale."""

    segments: tuple[SegmentEffect, ...]
    interaction: Interaction | None

    def segment(self, name: str) -> SegmentEffect:
        for found in self.segments:
            if found.segment == name:
                return found
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
    """Effects by segment, from the (control, treatment) moments of each, in the order of their names.

    scale: on which all segments share one effect if there is no interaction. A treatment that multiplies everyone's
    GMV by the same factor has one lift and many differences.
    """
    if not segments:
        raise ArmError("There are no segments. Give the moments of one at least.")
    effects = {name: compare(metric, *segments[name], alpha=alpha, method=method) for name in sorted(segments)}
    p_values = [effect.difference.p if isinstance(effect, Effect) else None for effect in effects.values()]
    adjusted = adjust(p_values, correction)
    found = tuple(SegmentEffect(name, effect, p) for (name, effect), p in zip(effects.items(), adjusted, strict=True))
    defined = [effect for effect in effects.values() if isinstance(effect, Effect)]
    return Heterogeneity(found, _interaction(defined, scale))


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

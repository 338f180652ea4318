"""One control and one treatment of a report: their moments, the effect on a metric, and its comparison."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from analysis.aggregates import Aggregates, Moments, Rank, Ranked
from analysis.inference import Effect, IntervalMethod, LiftInterval, Undefined, compare
from analysis.metrics import Declared, Metric, Quantile
from analysis.quantiles import compare_quantiles
from analysis.results import Comparison
from analysis.sources.base import Collected, Facts


@dataclass(frozen=True)
class ArmPair:
    """One control and one treatment in what a source collected.

    Attributes:
        collected: Aggregates of all arms, and facts about the data.
        control: Label of the control.
        treatment: Label of the treatment.
        split: Weight of every planned arm, sorted by arm.
    """

    collected: Collected
    control: str
    treatment: str
    split: Mapping[str, float]
    _moments: dict[tuple[int | None, str | None], tuple[Moments, Moments]] = field(default_factory=dict)

    @property
    def aggregates(self) -> Aggregates:
        """Aggregates of all arms."""
        return self.collected.aggregates

    @property
    def facts(self) -> Facts:
        """Facts about the data."""
        return self.collected.facts

    @property
    def arms(self) -> tuple[str, str]:
        """Labels of control and treatment."""
        return self.control, self.treatment

    def moments(self, *, until: int | None = None, segment: str | None = None) -> tuple[Moments, Moments]:
        """Return the moments of control and treatment, computed once for all metrics.

        Args:
            until: Start of the last interval of time to include, in microseconds since the epoch; None includes all.
            segment: The segment; None includes all.
        """
        key = (until, segment)
        if key not in self._moments:
            control, treatment = (self.aggregates.moments(arm, until=until, segment=segment) for arm in self.arms)
            self._moments[key] = (control, treatment)
        return self._moments[key]

    def ranked(self, rank: Rank) -> tuple[Ranked | None, Ranked | None]:
        """Return the order statistics of control and treatment over all units; None for an arm without units."""
        control, treatment = (self.aggregates.ranked.get((arm, rank)) for arm in self.arms)
        return control, treatment


def effect_on(
    metric: Declared,
    pair: ArmPair,
    control: Moments,
    treatment: Moments,
    *,
    alpha: float,
    interval: IntervalMethod,
    adjust: bool = True,
) -> Effect | Undefined:
    """Compute the effect on a metric.

    The effect on a quantile is over all units, whatever the moments: order statistics cannot be added up.

    Args:
        metric: The metric.
        pair: The two arms.
        control: Moments of the control.
        treatment: Moments of the treatment.
        alpha: Level of the test.
        interval: Method of the lift's interval.
        adjust: Whether to use the metric's covariates (CUPED).
    """
    if isinstance(metric, Metric):
        return compare(metric, control, treatment, alpha=alpha, method=interval, adjust=adjust)
    assert isinstance(metric, Quantile), f"{type(metric).__name__} cannot be compared"
    ranked = pair.ranked(metric.rank)
    for arm, name, statistics in zip((control, treatment), ("control", "treatment"), ranked, strict=True):
        if statistics is None or arm.n < 2:
            return Undefined(f"the {name} has {arm.n} unit(s), and a quantile's variance needs two")
    assert ranked[0] is not None
    assert ranked[1] is not None
    return compare_quantiles(ranked[0], ranked[1], metric.q, alpha=alpha, method=interval)


def comparison_of(metric: Declared, effect: Effect | Undefined, interval: IntervalMethod) -> Comparison:
    """Return an effect as numbers of a report."""
    if isinstance(effect, Undefined):
        numbers = (
            "lift",
            "low",
            "high",
            "p",
            "difference",
            "difference_low",
            "difference_high",
            "standard_error",
            "df",
        )
        return Comparison(**dict.fromkeys(numbers), interval="undefined", method="none")
    difference = effect.difference
    low, high = bounds_of(effect.interval)
    test = "order-statistics" if isinstance(metric, Quantile) else "welch"
    return Comparison(
        lift=effect.lift,
        low=low,
        high=high,
        interval=effect.interval.shape if effect.interval is not None else "undefined",
        p=difference.p,
        difference=difference.value,
        difference_low=difference.low,
        difference_high=difference.high,
        standard_error=difference.standard_error,
        df=difference.df,
        method=f"{'cuped+' if effect.theta is not None else ''}{test}+{interval}",
    )


def bounds_of(interval: LiftInterval | None) -> tuple[float | None, float | None]:
    """Return both bounds of a bounded interval, else None for both."""
    if interval is None or interval.shape != "bounded":
        return None, None
    return interval.low, interval.high

"""What a simulation shows: one summary per metric and planted lift."""

import msgspec

from analysis.inference import IntervalMethod

DOUBTFUL_P = 0.001  # p of the binomial test below which the false positives are too many


class TrialSummary(msgspec.Struct, frozen=True, kw_only=True):
    """Summary of all runs of one metric with one planted lift.

    Attributes:
        metric: Name of the metric.
        lift: The planted lift; 0 is an A/A comparison.
        runs: Number of runs.
        rejected: Share of the runs with a p-value that have p < alpha: the false-positive rate for a lift of 0, else
            the power.
        rejected_ci: Exact 95 % interval of `rejected` (Clopper, Pearson).
        rejected_below: Part of `rejected` whose estimate is below 0.
        rejected_above: Part of `rejected` whose estimate is above 0.
        covered: Share of the runs whose interval contains the planted lift. An unbounded interval counts by what it
            excludes.
        covered_ci: Exact 95 % interval of `covered`.
        bias: Mean estimate minus the planted lift.
        error: Standard error of `bias`.
        half_width: Median half-width of the bounded intervals.
        unbounded: Number of runs with an unbounded interval.
        undefined: Number of runs without a lift.
        p_rate: p-value of the exact binomial test that `rejected` is at most alpha. None where a lift is planted or no
            run has a p-value.
    """

    metric: str
    lift: float
    runs: int
    rejected: float | None
    rejected_ci: tuple[float, float] | None
    rejected_below: float | None
    rejected_above: float | None
    covered: float | None
    covered_ci: tuple[float, float] | None
    bias: float | None
    error: float | None
    half_width: float | None
    unbounded: int
    undefined: int
    p_rate: float | None

    @property
    def doubtful(self) -> bool:
        """Whether there are more false positives than the nominal rate, beyond what chance explains."""
        return self.p_rate is not None and self.p_rate < DOUBTFUL_P


class Simulation(msgspec.Struct, frozen=True, kw_only=True):
    """All runs of a simulation.

    Attributes:
        source: Where the units come from.
        units: Units of each simulated experiment.
        runs: Number of simulated experiments.
        share: Share of the units in the treatment.
        alpha: Level of the tests.
        seed: Random seed.
        interval: Method of the lift's interval.
        outcomes: One summary per metric and planted lift.
        p_values: For each metric without a planted lift, the quantiles of its p-value at 0, 1, .. 100 %.
    """

    source: str
    units: int
    runs: int
    share: float
    alpha: float
    seed: int
    interval: IntervalMethod
    outcomes: list[TrialSummary]
    p_values: dict[str, list[float]]

    def outcome(self, metric: str, lift: float = 0.0) -> TrialSummary:
        """Return the summary of a metric with a planted lift.

        Raises:
            LookupError: This metric and lift were not simulated.
        """
        for summary in self.outcomes:
            if (summary.metric, summary.lift) == (metric, lift):
                return summary
        raise LookupError(f"Metric {metric!r} was not simulated with a lift of {lift}.")

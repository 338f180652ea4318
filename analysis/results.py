"""What a report is made of: every renderer shows it, and JSON carries it as it stands.

Field names are stable; `schema_version` counts up when one changes its meaning. All values are plain numbers, None
where something is undefined, never NaN or infinity. Money is in minor units (cents) of `data.currency`. Times are
ISO 8601, UTC.
"""

from typing import Literal

import msgspec

from analysis.checks import Check
from analysis.decision import Decision
from analysis.inference import Shape
from analysis.metrics import Direction, Role, Unit

SCHEMA_VERSION = 1


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Lift and absolute difference with intervals. low and high are None where the interval is unbounded or undefined;
    `interval` then says which: `bounded`, `outside` (all but a gap), `everything`, or `undefined` (no lift at all)."""

    lift: float | None
    low: float | None
    high: float | None
    interval: Shape | Literal["undefined"]
    p: float | None
    difference: float | None
    difference_low: float | None
    difference_high: float | None
    standard_error: float | None
    df: float | None
    method: str


class Anytime(msgspec.Struct, frozen=True, kw_only=True):
    """Confidence sequence: it may be looked at every day, and p ever falls below alpha with chance alpha at most.
    low, high: of the lift, None where unbounded."""

    low: float | None
    high: float | None
    p: float


class CapUsed(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of a cap, pooled over all arms, and the share of each arm's units whose value it changed."""

    rule: str
    lower: float | None
    upper: float | None
    share_control: float
    share_treatment: float


class MarginShown(msgspec.Struct, frozen=True, kw_only=True):
    """A guardrail against its margin. holds: a loss as large as the margin is ruled out (p: one-sided)."""

    margin: float
    p: float
    holds: bool


class EquivalenceShown(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the lift is shown to lie within +- `margin`, by two one-sided tests. p: the larger of the two.
    low, high: the 1 - 2 alpha interval, which lies within the margin exactly when it holds; None where unbounded."""

    margin: float
    p: float
    holds: bool
    low: float | None
    high: float | None


class PosteriorShown(msgspec.Struct, frozen=True, kw_only=True):
    """Posterior of the lift under a normal prior (prior_sd None: a flat one). low, high: central credible interval.
    chance_to_win: probability that the treatment is better. loss_if_shipped, loss_if_not: expected loss, on the scale
    of the lift, of either choice."""

    prior_mean: float
    prior_sd: float | None
    lift: float
    low: float
    high: float
    chance_to_win: float
    loss_if_shipped: float
    loss_if_not: float


class Resampled(msgspec.Struct, frozen=True, kw_only=True):
    """Without formulas, and without CUPED: BCa bootstrap interval of the lift; studentised permutation test of the
    difference (p); chance that a treated unit's value is the larger one (superiority) with the rank test's p, both
    None for a ratio."""

    resamples: int
    seed: int
    low: float
    high: float
    standard_error: float
    p: float
    superiority: float | None
    superiority_p: float | None


class Remaining(msgspec.Struct, frozen=True, kw_only=True):
    """About how many more units, and days at the present rate, until the lift is known to +- `precision`."""

    precision: float
    units: int
    days: int | None


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """Cumulative lift over the units enrolled before `time`. low and high are for one look, not for peeking;
    `anytime` is for any number of looks, where a size was planned."""

    time: str
    n_control: int
    n_treatment: int
    lift: float | None
    low: float | None
    high: float | None
    anytime: Anytime | None


class AgeResult(msgspec.Struct, frozen=True, kw_only=True):
    """A metric, uncapped, in one interval of time since exposure, `start_days` <= t < `end_days`, over the units that
    have completed it. low and high are for one look."""

    start_days: float
    end_days: float
    n_control: int
    n_treatment: int
    lift: float | None
    low: float | None
    high: float | None


class NoveltyShown(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the lift changes with time since exposure. early, late: lift in the first interval and in all later ones,
    over all units. change: by how much 1 + lift has changed, (1 + late) / (1 + early) - 1 without CUPED, with its
    interval (None where unbounded); p: of no change. None where there is nothing to compare."""

    early: float | None
    late: float | None
    change: float | None
    low: float | None
    high: float | None
    p: float | None


class LookTaken(msgspec.Struct, frozen=True, kw_only=True):
    """A metric at a look of a group-sequential design. alpha: of all looks together, for this metric. share: of the
    planned units. spent: of alpha, up to and with this look. nominal: the level at which this look is tested; critical:
    the same in standard errors to either side, None where nothing may be spent yet. crossed: p <= nominal.
    low, high: repeated interval of the lift, which holds at all looks together; None where it has no bounds."""

    alpha: float
    share: float
    spent: float
    nominal: float
    critical: float | None
    crossed: bool
    low: float | None
    high: float | None


class SegmentResult(msgspec.Struct, frozen=True, kw_only=True):
    """A metric in one segment: exploratory. p_adjusted: Benjamini-Hochberg over all segments of all metrics."""

    segment: str
    n_control: int
    n_treatment: int
    lift: float | None
    low: float | None
    high: float | None
    p: float | None
    p_adjusted: float | None


class MetricResult(msgspec.Struct, frozen=True, kw_only=True):
    """One metric. control and treatment are the raw values, capped where the metric is; lift, low, high, p, difference
    are the headline (adjusted if the method says CUPED). Beside it stand `unadjusted`, without CUPED, and `uncapped`,
    without cap and CUPED. p_adjusted: Holm over the goals; Benjamini-Hochberg over the secondary metrics.
    equivalence, posterior, resampled, ages, novelty: where they were asked for. look: of a goal or guardrail, where a
    group-sequential design was stated. heterogeneity_p: Cochran's Q, whether the lift differs between segments."""

    name: str
    label: str
    description: str
    owner: str
    unit: Unit
    direction: Direction
    role: Role
    control: float | None
    treatment: float | None
    n_control: int
    n_treatment: int
    lift: float | None
    low: float | None
    high: float | None
    interval: Shape | Literal["undefined"]
    p: float | None
    p_adjusted: float | None
    difference: float | None
    difference_low: float | None
    difference_high: float | None
    standard_error: float | None
    df: float | None
    method: str
    note: str
    variance_reduction: float | None
    unadjusted: Comparison | None
    uncapped: Comparison | None
    cap: CapUsed | None
    margin: MarginShown | None
    equivalence: EquivalenceShown | None
    posterior: PosteriorShown | None
    resampled: Resampled | None
    anytime: Anytime | None
    look: LookTaken | None
    remaining: Remaining | None
    cumulative: list[Point]
    ages: list[AgeResult]
    novelty: NoveltyShown | None
    segments: list[SegmentResult]
    heterogeneity_p: float | None


class Enrolment(msgspec.Struct, frozen=True, kw_only=True):
    """Units first exposed in the interval that starts at `time`, by arm."""

    time: str
    units: dict[str, int]


class RatesUsed(msgspec.Struct, frozen=True, kw_only=True):
    """What amounts were converted with: the worth of one unit of each currency in the base currency."""

    base: str
    as_of: str
    source: str
    rates: dict[str, float]


class Data(msgspec.Struct, frozen=True, kw_only=True):
    """Where the numbers come from. bucket_seconds: width of the intervals of enrolment and cumulative lift."""

    source: str
    sql: list[str]
    cut_off: str | None
    config_versions: list[int]
    currency: str | None
    rates: RatesUsed | None
    window_seconds: float | None
    pre_period_seconds: float | None
    bucket_seconds: float | None
    filters: list[str]
    segment: str | None
    units: dict[str, int]
    units_in_several_arms: int | None
    enrolment: list[Enrolment]


class DesignUsed(msgspec.Struct, frozen=True, kw_only=True):
    """A group-sequential design at its look number `look`. Units are of both arms; earlier: at each look before.
    ended: there will be no other look."""

    spending: str
    planned_units: int
    earlier: list[int]
    look: int
    units: int
    ended: bool


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One treatment against the control. planned_units: of both arms, where a size was planned for confidence
    sequences; design: where looks were planned instead."""

    schema_version: int
    title: str
    control: str
    treatment: str
    alpha: float
    planned_units: int | None
    design: DesignUsed | None
    expected_split: dict[str, float]
    decision: Decision
    checks: list[Check]
    metrics: list[MetricResult]
    data: Data

    def metric(self, name: str) -> MetricResult:
        """The result of a metric by name. LookupError if there is none."""
        for result in self.metrics:
            if result.name == name:
                return result
        raise LookupError(f"The report has no metric {name!r}; it has {', '.join(m.name for m in self.metrics)}.")

    def check(self, name: str) -> Check:
        """A check by name. LookupError if it did not apply."""
        for check in self.checks:
            if check.name == name:
                return check
        raise LookupError(f"The report has no check {name!r}; it has {', '.join(c.name for c in self.checks)}.")

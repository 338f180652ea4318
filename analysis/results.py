"""The parts of a report. Every renderer shows them, and JSON carries them unchanged.

Field names are stable; `schema_version` is incremented when a field changes its meaning. All values are plain numbers;
an undefined value is None, never NaN or infinity. Money is in minor units (cents) of `data.currency`. Times are ISO
8601, UTC. In every type, `low` and `high` are the bounds of the lift's interval, None where it is unbounded, and `n_*`
are the units of an arm.
"""

from typing import Literal

import msgspec

from analysis.checks.check import Check
from analysis.inference import Shape
from analysis.metrics import Direction, Role, Unit
from analysis.verdict import Verdict

SCHEMA_VERSION = 1


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Lift and absolute difference of one comparison, with intervals.

    Attributes:
        lift: Relative lift over the control; None where the control's value is not above 0.
        low: Lower bound of the lift.
        high: Upper bound of the lift.
        interval: Shape of the lift's interval: `bounded`, `outside` (everything but a gap), `everything`, or
            `undefined` (there is no lift).
        p: Two-sided p-value of the difference.
        difference: Treatment minus control, in the metric's unit.
        difference_low: Lower bound of the difference.
        difference_high: Upper bound of the difference.
        standard_error: Standard error of the difference.
        df: Degrees of freedom.
        method: Adjustment, test and interval, such as `cuped+welch+fieller`.
    """

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
    """A confidence sequence of the lift. It may be read every day.

    Attributes:
        low: Lower bound of the lift.
        high: Upper bound of the lift.
        p: Always-valid p-value: without an effect, it ever falls below alpha with probability alpha at most.
    """

    low: float | None
    high: float | None
    p: float


class CapUsed(msgspec.Struct, frozen=True, kw_only=True):
    """The cap of a metric.

    Attributes:
        rule: The cap as declared.
        lower: Lower limit, pooled over all arms.
        upper: Upper limit, pooled over all arms.
        share_control: Share of the control's units whose value the cap changed.
        share_treatment: Share of the treatment's units whose value the cap changed.
    """

    rule: str
    lower: float | None
    upper: float | None
    share_control: float
    share_treatment: float


class MarginResult(msgspec.Struct, frozen=True, kw_only=True):
    """A guardrail against its margin.

    Attributes:
        margin: The largest acceptable relative loss.
        p: One-sided p-value.
        holds: A loss as large as the margin is ruled out.
    """

    margin: float
    p: float
    holds: bool


class EquivalenceResult(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the lift is shown to lie within +- `margin`, by two one-sided tests.

    Attributes:
        margin: The margin.
        p: The larger of the two one-sided p-values.
        holds: The lift is shown to lie within the margin.
        low: Lower bound of the 1 - 2 alpha interval, which lies within the margin exactly when `holds` is true.
        high: Upper bound of that interval.
    """

    margin: float
    p: float
    holds: bool
    low: float | None
    high: float | None


class PosteriorResult(msgspec.Struct, frozen=True, kw_only=True):
    """Posterior of the lift under a normal prior.

    Attributes:
        prior_mean: Mean of the prior.
        prior_sd: Standard deviation of the prior; None for a flat prior.
        lift: Posterior mean of the lift.
        low: Lower bound of the central credible interval.
        high: Upper bound of the central credible interval.
        chance_to_win: Probability that the treatment is better.
        loss_if_shipped: Expected loss, as a lift, from shipping the treatment.
        loss_if_not: Expected loss, as a lift, from keeping the control.
    """

    prior_mean: float
    prior_sd: float | None
    lift: float
    low: float
    high: float
    chance_to_win: float
    loss_if_shipped: float
    loss_if_not: float


class ResamplingResult(msgspec.Struct, frozen=True, kw_only=True):
    """Results of resampling, without CUPED.

    Attributes:
        resamples: Number of resamples.
        seed: Random seed.
        low: Lower bound of the lift by the BCa bootstrap.
        high: Upper bound of the lift by the BCa bootstrap.
        standard_error: Standard deviation of the resampled lifts.
        p: p-value of the studentised permutation test of the difference.
        superiority: Probability that a treated unit has a larger value than one of the control; None for a ratio.
        superiority_p: p-value of the rank test of the superiority; None for a ratio.
    """

    resamples: int
    seed: int
    low: float
    high: float
    standard_error: float
    p: float
    superiority: float | None
    superiority_p: float | None


class Remaining(msgspec.Struct, frozen=True, kw_only=True):
    """Estimate of what is missing until the lift is known to +- `precision`.

    Attributes:
        precision: Half-width of the lift's interval to reach.
        units: Additional units of both arms.
        days: Additional days at the present rate; None if the rate is too low to say.
    """

    precision: float
    units: int
    days: int | None


class CumulativePoint(msgspec.Struct, frozen=True, kw_only=True):
    """Cumulative lift over the units enrolled before a time.

    Attributes:
        time: End of the interval of time.
        n_control: Units of the control.
        n_treatment: Units of the treatment.
        lift: Relative lift.
        low: Lower bound, valid for a single planned analysis.
        high: Upper bound, valid for a single planned analysis.
        anytime: Confidence sequence, valid at any number of looks; None without planned units.
    """

    time: str
    n_control: int
    n_treatment: int
    lift: float | None
    low: float | None
    high: float | None
    anytime: Anytime | None


class AgeResult(msgspec.Struct, frozen=True, kw_only=True):
    """A metric, without its cap, in one interval of time since exposure, `start_days` <= t < `end_days`.

    Attributes:
        start_days: Start of the interval, in days since exposure.
        end_days: End of the interval, in days since exposure.
        n_control: Units of the control that have completed the interval.
        n_treatment: Units of the treatment that have completed the interval.
        lift: Relative lift.
        low: Lower bound, valid for a single planned analysis.
        high: Upper bound, valid for a single planned analysis.
    """

    start_days: float
    end_days: float
    n_control: int
    n_treatment: int
    lift: float | None
    low: float | None
    high: float | None


class NoveltyResult(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the lift changes with time since exposure. Values are None where there is nothing to compare.

    Attributes:
        early: Lift in the first interval since exposure, over all units.
        late: Lift in all later intervals, over all units.
        change: Relative change of 1 + lift, (1 + late) / (1 + early) - 1, without CUPED.
        low: Lower bound of the change.
        high: Upper bound of the change.
        p: p-value of the test that the lift does not change.
    """

    early: float | None
    late: float | None
    change: float | None
    low: float | None
    high: float | None
    p: float | None


class LookResult(msgspec.Struct, frozen=True, kw_only=True):
    """A metric at a look of a group-sequential design.

    Attributes:
        alpha: Level of all looks together, for this metric.
        share: Units so far as a share of the planned units.
        spent: Alpha spent up to and including this look.
        nominal: Level at which this look is tested.
        critical: The same level as a critical value, in standard errors to either side; None where no alpha may be
            spent yet.
        crossed: Whether p <= nominal.
        low: Lower bound of the repeated interval, which holds at all looks together.
        high: Upper bound of the repeated interval.
    """

    alpha: float
    share: float
    spent: float
    nominal: float
    critical: float | None
    crossed: bool
    low: float | None
    high: float | None


class SegmentResult(msgspec.Struct, frozen=True, kw_only=True):
    """A metric in one segment; exploratory.

    Attributes:
        segment: The segment.
        n_control: Units of the control.
        n_treatment: Units of the treatment.
        lift: Relative lift.
        low: Lower bound of the lift.
        high: Upper bound of the lift.
        p: p-value of the segment alone.
        p_adjusted: p-value adjusted over all segments of all metrics (Benjamini-Hochberg).
    """

    segment: str
    n_control: int
    n_treatment: int
    lift: float | None
    low: float | None
    high: float | None
    p: float | None
    p_adjusted: float | None


class MetricResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one metric.

    The headline (lift, low, high, p, difference) is adjusted with CUPED if `method` names it; `control` and `treatment`
    are not, but capped where the metric is.

    Attributes:
        name: Stable identifier of the metric.
        label: The metric's name that people read.
        description: What the metric measures.
        owner: Who owns the metric.
        unit: Unit of the metric's value.
        direction: The direction that is good.
        role: Role of the metric.
        control: Value in the control.
        treatment: Value in the treatment.
        n_control: Units of the control.
        n_treatment: Units of the treatment.
        lift: Relative lift; see `Comparison`, as for all fields down to `method`.
        low: Lower bound of the lift.
        high: Upper bound of the lift.
        interval: Shape of the lift's interval.
        p: Two-sided p-value.
        p_adjusted: p-value adjusted over the goals (Holm) or over the secondary metrics (Benjamini-Hochberg).
        difference: Treatment minus control.
        difference_low: Lower bound of the difference.
        difference_high: Upper bound of the difference.
        standard_error: Standard error of the difference.
        df: Degrees of freedom.
        method: Adjustment, test and interval.
        note: What a reader must know about this row, in one sentence; empty if nothing.
        variance_reduction: Share of the variance that CUPED removes.
        unadjusted: The comparison without CUPED.
        uncapped: The comparison without cap and CUPED.
        cap: The cap of the metric.
        margin: A guardrail against its margin.
        equivalence: Test of equivalence, where the report asks for it.
        posterior: Posterior of the lift, where the report has a prior.
        resampled: Bootstrap and permutation test, where the report asks for them.
        anytime: Confidence sequence, where the report has planned units.
        look: A goal or guardrail at a look, where the report has a design.
        remaining: Units and days until the lift is precise enough.
        cumulative: Cumulative lift over time.
        ages: The metric by time since exposure, where the report asks for it.
        novelty: Whether the lift changes with time since exposure, where the report asks for it.
        segments: The metric by segment.
        heterogeneity_p: p-value of the test that the lift is the same in all segments (Cochran's Q).
    """

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
    margin: MarginResult | None
    equivalence: EquivalenceResult | None
    posterior: PosteriorResult | None
    resampled: ResamplingResult | None
    anytime: Anytime | None
    look: LookResult | None
    remaining: Remaining | None
    cumulative: list[CumulativePoint]
    ages: list[AgeResult]
    novelty: NoveltyResult | None
    segments: list[SegmentResult]
    heterogeneity_p: float | None


class Enrolment(msgspec.Struct, frozen=True, kw_only=True):
    """Units first exposed in one interval of time.

    Attributes:
        time: Start of the interval.
        units: Number of units by arm.
    """

    time: str
    units: dict[str, int]


class RatesUsed(msgspec.Struct, frozen=True, kw_only=True):
    """The rates that amounts were converted with.

    Attributes:
        base: The base currency.
        as_of: Date of the rates.
        source: Where the rates come from.
        rates: Value of one unit of each currency in the base currency.
    """

    base: str
    as_of: str
    source: str
    rates: dict[str, float]


class Data(msgspec.Struct, frozen=True, kw_only=True):
    """Where the numbers come from. A field is None or empty where the source does not know.

    Attributes:
        source: Name of the source.
        sql: The statements, as they ran.
        cut_off: Time of the newest data.
        config_versions: Versions of the experiment's configuration that were live.
        currency: Currency of all amounts.
        rates: Rates that amounts were converted with.
        window_seconds: Attribution window.
        pre_period_seconds: Time before exposure that the covariates cover.
        bucket_seconds: Width of the intervals of `enrolment` and of the cumulative lift.
        filters: Conditions that all units satisfy.
        segment: What the segments are.
        units: Number of units by arm.
        units_in_several_arms: Units seen in several arms; they are left out.
        enrolment: Units by the time of their first exposure.
    """

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
    """A group-sequential design at one of its looks. Units are of both arms.

    Attributes:
        spending: Name of the spending function.
        planned_units: Planned units at the last look.
        earlier: Units at each earlier look.
        look: Number of this look, from 1.
        units: Units at this look.
        ended: There will be no further look.
    """

    spending: str
    planned_units: int
    earlier: list[int]
    look: int
    units: int
    ended: bool


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One treatment compared with the control.

    Attributes:
        schema_version: Version of the meaning of all fields.
        title: Title of the report.
        control: Label of the control.
        treatment: Label of the treatment.
        alpha: 1 - coverage of the intervals, and the level of the tests.
        planned_units: Planned units of both arms, for confidence sequences.
        design: Group-sequential design.
        expected_split: Weight of every planned arm.
        verdict: Conclusion with its reasons.
        checks: Checks of the data.
        metrics: Results in the order of declaration.
        data: Where the numbers come from.
        overridden: Where the report departs from the experiment's published config, one sentence each.
    """

    schema_version: int
    title: str
    control: str
    treatment: str
    alpha: float
    planned_units: int | None
    design: DesignUsed | None
    expected_split: dict[str, float]
    verdict: Verdict
    checks: list[Check]
    metrics: list[MetricResult]
    data: Data
    overridden: list[str]

    def metric(self, name: str) -> MetricResult:
        """Return the result of a metric by name.

        Raises:
            LookupError: The report has no such metric.
        """
        for result in self.metrics:
            if result.name == name:
                return result
        raise LookupError(f"The report has no metric {name!r}; it has {', '.join(m.name for m in self.metrics)}.")

    def check(self, name: str) -> Check:
        """Return a check by name.

        Raises:
            LookupError: The report has no such check.
        """
        for check in self.checks:
            if check.name == name:
                return check
        raise LookupError(f"The report has no check {name!r}; it has {', '.join(c.name for c in self.checks)}.")

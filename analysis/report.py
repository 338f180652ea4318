"""`analyze`: a source and metrics in, one typed report out (`analysis.results`)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import msgspec

from analysis.aggregates import Aggregates, Moments, Needs
from analysis.arguments import check_count, check_scalar
from analysis.asked import Asked, bounds_of
from analysis.bayes import Prior
from analysis.checks import run_checks
from analysis.columns import Window
from analysis.decision import decide
from analysis.designs import Design
from analysis.equivalence import non_inferiority
from analysis.errors import ArgumentError, ArmError, DataError
from analysis.heterogeneity import by_segment
from analysis.inference import Effect, IntervalMethod, Undefined, compare
from analysis.judging import check_arms, corrected, judged, note, with_goal
from analysis.metrics import Declared, Metric, Quantile, merged_needs
from analysis.novelty import aged, check_ages
from analysis.planning import remaining
from analysis.quantiles import compare_quantiles
from analysis.results import (
    SCHEMA_VERSION,
    AgeResult,
    Anytime,
    CapUsed,
    Comparison,
    Data,
    DesignUsed,
    Enrolment,
    MarginShown,
    MetricResult,
    NoveltyShown,
    Point,
    RatesUsed,
    Remaining,
    Report,
    SegmentResult,
)
from analysis.sequential import monitor
from analysis.sources.base import DAY, Collected, Facts, Source, moment

__all__ = ["MetricResult", "Report", "analyze", "analyze_arms"]


def analyze(
    source: Source,
    metrics: Sequence[Declared],
    control: str,
    treatment: str,
    expected_split: Mapping[str, float] | None = None,
    alpha: float = 0.05,
    *,
    interval: IntervalMethod = "fieller",
    planned_units: int | None = None,
    design: Design | None = None,
    ages: Sequence[Window] = (),
    precision: float = 0.02,
    equivalence: float | None = None,
    prior: Prior | None = None,
    resamples: int = 0,
    seed: int = 0,
    title: str = "",
) -> Report:
    """Compare a treatment with a control.

    control, treatment: labels of the arms as they stand in the data; nothing is guessed from their order.
    expected_split: weight of every arm that was planned (any scale); None means equal shares of the arms in the data.
    alpha: 1 - coverage of the intervals, and the level of the tests. interval: how the relative lift is bounded.
    planned_units: size of both arms that was planned. Until it is reached, the decision rests on confidence sequences,
    which may be looked at every day. design: a group-sequential one instead, with this as its next look; goals share
    alpha (Bonferroni). ages: intervals of time since exposure (`novelty.age_windows`) to show each metric in, for
    sources that know when things happened. precision: half-width of the lift's interval for which the report says how
    long it would still take. If no metric is a goal, the first one is taken for it.
    equivalence: margin of the lift; each metric then says whether it is shown to lie within it (0.02: within +-2 %).
    prior: of the lift; each metric then has a posterior. resamples: of bootstrap and permutation test, 0 for neither;
    they need the metrics' values unit by unit (without ids), which otherwise never leave the source. seed: of these.
    Errors: ArmError, DataError, MetricError, MissingColumnError, SourceError, ArgumentError.
    """
    (report,) = analyze_arms(
        source,
        metrics,
        control,
        [treatment],
        expected_split,
        alpha,
        interval=interval,
        planned_units=planned_units,
        design=design,
        ages=ages,
        precision=precision,
        equivalence=equivalence,
        prior=prior,
        resamples=resamples,
        seed=seed,
        title=title,
    )
    return report


def analyze_arms(
    source: Source,
    metrics: Sequence[Declared],
    control: str,
    treatments: Sequence[str] | None = None,
    expected_split: Mapping[str, float] | None = None,
    alpha: float = 0.05,
    *,
    interval: IntervalMethod = "fieller",
    planned_units: int | None = None,
    design: Design | None = None,
    ages: Sequence[Window] = (),
    precision: float = 0.02,
    equivalence: float | None = None,
    prior: Prior | None = None,
    resamples: int = 0,
    seed: int = 0,
    title: str = "",
) -> list[Report]:
    """Compare several treatments with one control, from one look at the source. One report each, as by `analyze`.

    treatments: labels; None means all arms of the data, and of the expected split, but the control.
    Corrections are over the goals of all treatments together. planned_units: of the control and one treatment.
    """
    declared = with_goal(metrics)
    if not 0 < alpha < 1:
        raise DataError(f"alpha is {alpha}, and must lie between 0 and 1, for example 0.05.")
    if planned_units is not None and planned_units < 1:
        raise ArgumentError(f"planned_units is {planned_units}, and must be at least 1.")
    if planned_units is not None and design is not None:
        raise ArgumentError("A design has its own planned units. Give it, or planned_units for confidence sequences.")
    ages = check_ages(ages) if ages else ()
    if treatments is not None and not treatments:
        raise ArmError("There is no treatment. Name one arm at least.")
    if resamples:
        check_count(resamples, "resamples", ge=100)
    collected = source.collect(_needs(declared, ages, resampling=resamples > 0))
    if treatments is None:
        treatments = sorted({*collected.aggregates.arms, *(expected_split or {})} - {control})
        if not treatments:
            raise ArmError(f"The data has no arm but {control!r}, so there is nothing to compare it with.")
    asked = Asked(
        None if equivalence is None else check_scalar(equivalence, "equivalence", gt=0, lt=1),
        prior,
        resamples,
        seed,
        design,
        goals=sum(metric.role == "goal" for metric in declared) * len(treatments),
        ages=tuple(ages),
    )
    looks = [
        _Look(
            collected,
            check_arms(collected.aggregates, control, treatment, expected_split),
            control,
            treatment,
            alpha,
            interval,
            planned_units,
            asked,
            precision,
        )
        for treatment in treatments
    ]
    results = corrected([[look.result(metric) for metric in declared] for look in looks])
    return [look.report(declared, found, title) for look, found in zip(looks, results, strict=True)]


def _needs(metrics: Sequence[Declared], ages: Sequence[Window], *, resampling: bool) -> Needs:
    """What the metrics ask for, whole and by age, and the tables of their values if they are to be resampled."""
    needs = merged_needs(metrics)
    for metric in metrics:
        if (parts := aged(metric, ages)) is not None:
            needs |= parts.needs
        if resampling and isinstance(metric, Metric):
            needs |= Needs(tables=frozenset({metric.inputs}))
    return needs


@dataclass(frozen=True)
class _Look:
    """One control and one treatment in what a source gave."""

    collected: Collected
    split: Mapping[str, float]
    control: str
    treatment: str
    alpha: float
    interval: IntervalMethod
    planned_units: int | None
    asked: Asked
    precision: float
    _found: dict[tuple[int | None, str | None], tuple[Moments, Moments]] = field(default_factory=dict)

    @property
    def aggregates(self) -> Aggregates:
        return self.collected.aggregates

    @property
    def facts(self) -> Facts:
        return self.collected.facts

    def moments(self, *, until: int | None = None, segment: str | None = None) -> tuple[Moments, Moments]:
        """Of control and treatment; added up once for all metrics."""
        key, a = (until, segment), self.aggregates
        if key not in self._found:
            c, t = (a.moments(arm, until=until, segment=segment) for arm in (self.control, self.treatment))
            self._found[key] = (c, t)
        return self._found[key]

    def report(self, metrics: Sequence[Declared], results: list[MetricResult], title: str) -> Report:
        c, t = self.moments()
        checks = run_checks(self.aggregates, self.facts, metrics, c, t, self.split)
        peeking = self.planned_units is not None and c.n + t.n < self.planned_units
        found = [judged(result, self.alpha, peeking=peeking, goals=self.asked.goals) for result in results]
        return Report(
            schema_version=SCHEMA_VERSION,
            title=title or self.facts.source,
            control=self.control,
            treatment=self.treatment,
            alpha=self.alpha,
            planned_units=self.planned_units,
            design=self._design(c.n + t.n),
            expected_split=dict(self.split),
            decision=decide(found, checks, self.alpha),
            checks=checks,
            metrics=results,
            data=_data(self.aggregates, self.facts),
        )

    def effect(self, metric: Declared, c: Moments, t: Moments, *, adjust: bool = True) -> Effect | Undefined:
        """The effect on a metric; of a quantile over all units only, as its order statistics do not add up."""
        if isinstance(metric, Metric):
            return compare(metric, c, t, alpha=self.alpha, method=self.interval, adjust=adjust)
        assert isinstance(metric, Quantile), f"no way to compare {type(metric).__name__}"
        ranked = [self.aggregates.ranked.get((arm, metric.rank)) for arm in (self.control, self.treatment)]
        for arm, name, found in zip((c, t), ("control", "treatment"), ranked, strict=True):
            if found is None or arm.n < 2:
                return Undefined(f"the {name} has {arm.n} unit(s), and a quantile's variance needs two")
        assert ranked[0] is not None
        assert ranked[1] is not None
        return compare_quantiles(ranked[0], ranked[1], metric.q, alpha=self.alpha, method=self.interval)

    def result(self, metric: Declared) -> MetricResult:
        c, t = self.moments()
        effect = self.effect(metric, c, t)
        headline = self._comparison(metric, effect)
        adjusted = isinstance(effect, Effect) and effect.theta is not None
        raw = self._comparison(metric, self.effect(metric, c, t, adjust=False)) if adjusted else None
        segments, heterogeneity_p = self._segments(metric)
        values = self._values(metric, c, t)
        return MetricResult(
            name=metric.name,
            label=metric.label or metric.name,
            description=metric.description,
            owner=metric.owner,
            unit=metric.unit,
            direction=metric.direction,
            role=metric.role,
            control=values[0],
            treatment=values[1],
            n_control=c.n,
            n_treatment=t.n,
            p_adjusted=None,
            note=note(metric, effect),
            variance_reduction=effect.variance_reduction if isinstance(effect, Effect) else None,
            unadjusted=raw,
            uncapped=self._uncapped(metric, c, t),
            cap=self._cap(metric, c, t),
            margin=self._margin(metric, effect),
            look=self.asked.look_of(metric, effect, self.alpha, self.interval),
            equivalence=self.asked.equivalence_of(effect, self.alpha),
            posterior=self.asked.posterior_of(metric, effect, self.alpha),
            resampled=self.asked.resampled(metric, self.aggregates, (self.control, self.treatment), self.alpha),
            anytime=self._anytime(effect),
            remaining=self._remaining(effect),
            cumulative=self._cumulative(metric) if isinstance(metric, Metric) else [],
            ages=self._ages(metric),
            novelty=self._novelty(metric),
            segments=segments,
            heterogeneity_p=heterogeneity_p,
            **msgspec.structs.asdict(headline),
        )

    def _values(self, metric: Declared, c: Moments, t: Moments) -> tuple[float | None, float | None]:
        if isinstance(metric, Metric):
            return metric.value(c.means) if c.n else None, metric.value(t.means) if t.n else None
        assert isinstance(metric, Quantile)
        ranked = [self.aggregates.ranked.get((arm, metric.rank)) for arm in (self.control, self.treatment)]
        control, treatment = (found.values[1] if found else None for found in ranked)
        return control, treatment

    def _comparison(self, metric: Declared, effect: Effect | Undefined) -> Comparison:
        if isinstance(effect, Undefined):
            nothing = ("lift", "low", "high", "p", "difference", "difference_low", "difference_high")
            return Comparison(**dict.fromkeys((*nothing, "standard_error", "df")), interval="undefined", method="none")
        d = effect.difference
        low, high = bounds_of(effect.interval)
        test = "order-statistics" if isinstance(metric, Quantile) else "welch"
        return Comparison(
            lift=effect.lift,
            low=low,
            high=high,
            interval=effect.interval.shape if effect.interval is not None else "undefined",
            p=d.p,
            difference=d.value,
            difference_low=d.low,
            difference_high=d.high,
            standard_error=d.standard_error,
            df=d.df,
            method=f"{'cuped+' if effect.theta is not None else ''}{test}+{self.interval}",
        )

    def _uncapped(self, metric: Declared, c: Moments, t: Moments) -> Comparison | None:
        if not isinstance(metric, Metric) or metric.uncapped is metric:
            return None
        return self._comparison(metric, self.effect(metric.uncapped, c, t, adjust=False))

    def _cap(self, metric: Declared, c: Moments, t: Moments) -> CapUsed | None:
        if not isinstance(metric, Metric) or metric.inputs[0].cap is None:
            return None
        column = metric.inputs[0]
        limits = self.aggregates.limits[column]
        shares = [
            self.aggregates.capped(column, arm) / moments.n if moments.n else 0.0
            for arm, moments in ((self.control, c), (self.treatment, t))
        ]
        return CapUsed(
            rule=str(column.cap),
            lower=limits.lower,
            upper=limits.upper,
            share_control=shares[0],
            share_treatment=shares[1],
        )

    def _margin(self, metric: Declared, effect: Effect | Undefined) -> MarginShown | None:
        if metric.margin is None:
            return None
        if isinstance(effect, Undefined) or effect.lift is None:
            return MarginShown(margin=metric.margin, p=1.0, holds=False)
        # One-sided at alpha / 2, so that it agrees with the two-sided interval that the report shows.
        shown = non_inferiority(effect, metric.margin, direction=metric.direction, alpha=self.alpha / 2)
        look = self.asked.look_of(metric, effect, self.alpha, self.interval)
        holds = shown.holds if look is None else shown.test.p <= look.nominal / 2
        return MarginShown(margin=metric.margin, p=shown.test.p, holds=holds)

    def _anytime(self, effect: Effect | Undefined) -> Anytime | None:
        if self.planned_units is None or isinstance(effect, Undefined):
            return None
        monitored = monitor(effect, self.planned_units, alpha=self.alpha, method=self.interval)
        low, high = bounds_of(monitored.lift)
        return Anytime(low=low, high=high, p=monitored.p)

    def _remaining(self, effect: Effect | Undefined) -> Remaining | None:
        """None where it is precise enough already, or nothing says how fast units come."""
        per_day = _units_per_day(self.aggregates, (self.control, self.treatment))
        if isinstance(effect, Undefined) or not per_day or bounds_of(effect.interval) == (None, None):
            return None
        needed = remaining(effect, self.precision, per_day)
        if needed.units == 0:
            return None
        return Remaining(precision=self.precision, units=needed.units, days=needed.days)

    def _cumulative(self, metric: Metric) -> list[Point]:
        """The lift over the units enrolled until the end of each interval, from the cells that are there already."""
        points = []
        for day in self.aggregates.days:
            c, t = self.moments(until=day)
            effect = self.effect(metric, c, t)
            shown = self._comparison(metric, effect)
            end = moment(day + (_microseconds(self.facts) or 0))
            points.append(
                Point(
                    time=(min(end, self.facts.cut_off) if self.facts.cut_off else end).isoformat(),
                    n_control=c.n,
                    n_treatment=t.n,
                    lift=shown.lift,
                    low=shown.low,
                    high=shown.high,
                    anytime=self._anytime(effect),
                )
            )
        return points

    def _design(self, units: int) -> DesignUsed | None:
        design = self.asked.design
        if design is None:
            return None
        return DesignUsed(
            spending=design.spending,
            planned_units=design.planned_units,
            earlier=list(design.earlier),
            look=len(design.earlier) + 1,
            units=units,
            ended=design.last or units >= design.planned_units,
        )

    def _ages(self, metric: Declared) -> list[AgeResult]:
        """The metric in each interval since exposure, over the units that have completed it."""
        parts = aged(metric, self.asked.ages)
        cut_off, rows = self.facts.cut_off, []
        for part in parts.ages if parts else ():
            assert part.window is not None
            ends = timedelta(microseconds=_microseconds(self.facts) or 0) + part.window.end
            complete = [day for day in self.aggregates.days if cut_off is None or moment(day) + ends <= cut_off]
            if not complete:
                break
            c, t = self.moments(until=complete[-1])
            shown = self._comparison(part, self.effect(part, c, t))
            start, end = (side / timedelta(days=1) for side in (part.window.start, part.window.end))
            rows.append(
                AgeResult(
                    start_days=start,
                    end_days=end,
                    n_control=c.n,
                    n_treatment=t.n,
                    lift=shown.lift,
                    low=shown.low,
                    high=shown.high,
                )
            )
        return rows

    def _novelty(self, metric: Declared) -> NoveltyShown | None:
        parts = aged(metric, self.asked.ages)
        if parts is None:
            return None
        c, t = self.moments()
        early, late, change = (
            self._comparison(part, self.effect(part, c, t)) for part in (parts.early, parts.late, parts.change)
        )
        return NoveltyShown(
            early=early.lift, late=late.lift, change=change.lift, low=change.low, high=change.high, p=change.p
        )

    def _segments(self, metric: Declared) -> tuple[list[SegmentResult], float | None]:
        """The metric by segment, p not yet adjusted, and whether the lift differs between them."""
        names = self.aggregates.segments
        if not names or not isinstance(metric, Metric):
            return [], None
        moments = {name: self.moments(segment=name) for name in names}
        found = by_segment(metric, moments, alpha=self.alpha, method=self.interval)
        rows = []
        for part in found.segments:
            shown = self._comparison(metric, part.effect)
            c, t = moments[part.segment]
            rows.append(
                SegmentResult(
                    segment=part.segment,
                    n_control=c.n,
                    n_treatment=t.n,
                    lift=shown.lift,
                    low=shown.low,
                    high=shown.high,
                    p=shown.p,
                    p_adjusted=None,
                )
            )
        return rows, found.interaction.p if found.interaction else None


def _units_per_day(aggregates: Aggregates, arms: Sequence[str]) -> list[int]:
    """New units of both arms, each day from the first to the last."""
    counts: dict[int, int] = {}
    for cell in aggregates.cells:
        if cell.day is not None and cell.arm in arms:
            counts[cell.day // DAY] = counts.get(cell.day // DAY, 0) + cell.n
    return [counts.get(day, 0) for day in range(min(counts), max(counts) + 1)] if counts else []


def _microseconds(facts: Facts) -> int | None:
    return None if facts.bucket is None else round(facts.bucket.total_seconds() * 1e6)


def _data(aggregates: Aggregates, facts: Facts) -> Data:
    units: dict[int, dict[str, int]] = {day: dict.fromkeys(aggregates.arms, 0) for day in aggregates.days}
    for cell in aggregates.cells:
        if cell.day is not None and cell.n:
            units[cell.day][cell.arm] += cell.n
    rates = facts.rates
    return Data(
        source=facts.source,
        sql=list(facts.sql),
        cut_off=facts.cut_off.isoformat() if facts.cut_off else None,
        config_versions=list(facts.config_versions),
        currency=facts.currency,
        rates=RatesUsed(base=rates.base, as_of=rates.as_of.isoformat(), source=rates.source, rates=dict(rates.rates))
        if rates
        else None,
        window_seconds=facts.window.total_seconds() if facts.window else None,
        pre_period_seconds=facts.pre_period.total_seconds() if facts.pre_period else None,
        bucket_seconds=facts.bucket.total_seconds() if facts.bucket else None,
        filters=list(facts.filters),
        segment=facts.segment,
        units={arm: aggregates.count(arm) for arm in aggregates.arms},
        units_in_several_arms=facts.multiple_arms,
        enrolment=[Enrolment(time=moment(day).isoformat(), units=counts) for day, counts in units.items()],
    )

"""A metric over calendar time, by time since exposure (age) and by segment, from the cells that a source returned."""

from collections.abc import Sequence
from datetime import timedelta

from analysis.aggregates import Aggregates, Moments
from analysis.comparison import ArmPair, comparison_of, effect_on
from analysis.heterogeneity import by_segment
from analysis.inference import Effect, Undefined
from analysis.metrics import Declared, Metric
from analysis.novelty import by_age
from analysis.optional_results import anytime_result
from analysis.request import ReportOptions
from analysis.results import AgeResult, CumulativePoint, NoveltyResult, SegmentResult
from analysis.sources.base import Facts
from analysis.times import DAY, to_datetime


def cumulative_points(metric: Declared, pair: ArmPair, options: ReportOptions) -> list[CumulativePoint]:
    """Compute the lift over the units enrolled until the end of each interval of time; empty for a quantile."""
    if not isinstance(metric, Metric):
        return []
    points = []
    width, cut_off = _bucket(pair.facts), pair.facts.cut_off
    for day in pair.aggregates.days:
        control, treatment = pair.moments(until=day)
        effect = _effect(metric, pair, control, treatment, options)
        comparison = comparison_of(metric, effect, options.interval)
        end = to_datetime(day) + width
        points.append(
            CumulativePoint(
                time=(min(end, cut_off) if cut_off else end).isoformat(),
                n_control=control.n,
                n_treatment=treatment.n,
                lift=comparison.lift,
                low=comparison.low,
                high=comparison.high,
                anytime=anytime_result(effect, options),
            )
        )
    return points


def age_results(metric: Declared, pair: ArmPair, options: ReportOptions) -> list[AgeResult]:
    """Compute the metric in each interval since exposure, over the units that have completed the interval."""
    parts, rows = by_age(metric, options.ages), []
    for part in parts.ages if parts else ():
        assert part.window is not None
        until = _last_complete(pair, part.window.end)
        if until is None:
            break
        control, treatment = pair.moments(until=until)
        comparison = comparison_of(part, _effect(part, pair, control, treatment, options), options.interval)
        rows.append(
            AgeResult(
                start_days=part.window.start / timedelta(days=1),
                end_days=part.window.end / timedelta(days=1),
                n_control=control.n,
                n_treatment=treatment.n,
                lift=comparison.lift,
                low=comparison.low,
                high=comparison.high,
            )
        )
    return rows


def novelty_result(metric: Declared, pair: ArmPair, options: ReportOptions) -> NoveltyResult | None:
    """Test whether the lift changes with time since exposure; None without ages or where they do not apply."""
    parts = by_age(metric, options.ages)
    if parts is None:
        return None
    control, treatment = pair.moments()
    early, late, change = (
        comparison_of(part, _effect(part, pair, control, treatment, options), options.interval)
        for part in (parts.early, parts.late, parts.change)
    )
    return NoveltyResult(
        early=early.lift, late=late.lift, change=change.lift, low=change.low, high=change.high, p=change.p
    )


def segment_results(
    metric: Declared, pair: ArmPair, options: ReportOptions
) -> tuple[list[SegmentResult], float | None]:
    """Compute the metric by segment, and the p-value of the test that the lift differs between segments.

    The segments' own p-values are not adjusted yet.
    """
    names = pair.aggregates.segments
    if not names or not isinstance(metric, Metric):
        return [], None
    moments = {name: pair.moments(segment=name) for name in names}
    heterogeneity = by_segment(metric, moments, alpha=options.alpha, method=options.interval)
    rows = []
    for part in heterogeneity.segments:
        comparison = comparison_of(metric, part.effect, options.interval)
        control, treatment = moments[part.segment]
        rows.append(
            SegmentResult(
                segment=part.segment,
                n_control=control.n,
                n_treatment=treatment.n,
                lift=comparison.lift,
                low=comparison.low,
                high=comparison.high,
                p=comparison.p,
                p_adjusted=None,
            )
        )
    return rows, heterogeneity.interaction.p if heterogeneity.interaction else None


def units_per_day(aggregates: Aggregates, arms: Sequence[str]) -> list[int]:
    """Count the new units of some arms on each day, from the first to the last; empty where the source has no days."""
    counts: dict[int, int] = {}
    for cell in aggregates.cells:
        if cell.day is not None and cell.arm in arms:
            counts[cell.day // DAY] = counts.get(cell.day // DAY, 0) + cell.n
    return [counts.get(day, 0) for day in range(min(counts), max(counts) + 1)] if counts else []


def _effect(
    metric: Metric, pair: ArmPair, control: Moments, treatment: Moments, options: ReportOptions
) -> Effect | Undefined:
    return effect_on(metric, pair, control, treatment, alpha=options.alpha, interval=options.interval)


def _bucket(facts: Facts) -> timedelta:
    return facts.bucket or timedelta(0)


def _last_complete(pair: ArmPair, age: timedelta) -> int | None:
    """Start of the last interval of time whose units have all reached an age at the cut-off; None if none has."""
    cut_off, length = pair.facts.cut_off, _bucket(pair.facts) + age
    complete = [day for day in pair.aggregates.days if cut_off is None or to_datetime(day) + length <= cut_off]
    return complete[-1] if complete else None

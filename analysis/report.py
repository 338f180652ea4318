"""`analyze`: from a source and metrics to a typed report (`analysis.results`).

The steps are: check the request, collect the aggregates that the metrics declare with one query, compute each metric's
result, adjust the p-values for the number of tests, run the checks, and reach a verdict.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import msgspec

from analysis.aggregates import Aggregates, Needs
from analysis.bayes import Prior
from analysis.checks import run_checks
from analysis.columns import Window
from analysis.comparison import ArmPair
from analysis.errors import ArmError, ArmNameError
from analysis.evidence import evidence_of
from analysis.inference import IntervalMethod
from analysis.metric_result import metric_result
from analysis.metrics import Declared, Metric, merged_needs
from analysis.multiple_testing import adjust_reports
from analysis.novelty import by_age
from analysis.request import ReportOptions, planned_split, with_goal
from analysis.results import (
    SCHEMA_VERSION,
    Data,
    DesignUsed,
    Enrolment,
    MetricResult,
    RatesUsed,
    Report,
)
from analysis.sequential import Design
from analysis.sources.base import Collected, Facts, Source
from analysis.times import to_datetime
from analysis.verdict import reach_verdict

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

    Args:
        source: Where the aggregates come from.
        metrics: What to compare. If none of them is a goal, the first one that is not a guardrail becomes one.
        control: Label of the control in the data.
        treatment: Label of the treatment in the data.
        expected_split: Weight of every planned arm, on any scale. None means equal shares of the arms in the data.
        alpha: 1 - coverage of the intervals, and the level of the tests.
        interval: Method of the interval of the relative lift.
        planned_units: Planned units of both arms. Until this size is reached, the verdict rests on confidence
            sequences, which may be read every day.
        design: A group-sequential design instead, with this report as its next look. The goals share alpha
            (Bonferroni).
        ages: Intervals of time since exposure in which to show each metric (see `novelty.age_windows`), for sources
            that have the times of events.
        precision: Half-width of the lift's interval (0.02 is two percentage points) for which the report estimates the
            remaining time.
        equivalence: Margin of equivalence: each metric then says whether its lift is shown to lie within the margin
            (0.02: within +-2 %).
        prior: Prior of the lift: each metric then has a posterior.
        resamples: Resamples of the bootstrap and the permutation test; 0 for neither. They need the metric's value of
            each unit (without ids); all other results only need sums from the source.
        seed: Random seed of the resamples.
        title: Title of the report; the source's name if empty.

    Raises:
        ArgumentError: An option is out of range.
        ArmError: An arm is missing.
        DataError: The data holds values that cannot be averaged, or `alpha` is out of range.
        MetricError: A metric cannot be computed.
        MissingColumnError: A metric names a column that the source does not have.
        SourceError: The source cannot be read.
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
    overridden: Sequence[str] = (),
    choose_goal: bool = True,
) -> list[Report]:
    """Compare several treatments with one control, with one query of the source.

    The p-values are adjusted for the goals of all treatments together. The other arguments and the errors are those of
    `analyze`.

    Args:
        source: Where the aggregates come from.
        metrics: What to compare.
        control: Label of the control in the data.
        treatments: Labels of the treatments. None means all arms of the data and of the expected split but the control.
        expected_split: Weight of every planned arm, on any scale.
        alpha: 1 - coverage of the intervals, and the level of the tests.
        interval: Method of the interval of the relative lift.
        planned_units: Planned units of the control and one treatment.
        design: A group-sequential design, with this report as its next look.
        ages: Intervals of time since exposure in which to show each metric.
        precision: Half-width of the lift's interval for which the report estimates the remaining time.
        equivalence: Margin of equivalence, on the lift.
        prior: Prior of the lift.
        resamples: Resamples of the bootstrap and the permutation test; 0 for neither.
        seed: Random seed of the resamples.
        title: Title of the reports.
        overridden: Where the request departs from the experiment's published config, one sentence each.
        choose_goal: Whether the first metric that is not a guardrail becomes a goal if no metric is one.

    Returns:
        One report per treatment.
    """
    declared = with_goal(metrics) if choose_goal else list(metrics)
    options = ReportOptions(
        alpha=alpha,
        interval=interval,
        planned_units=planned_units,
        design=design,
        ages=tuple(ages),
        precision=precision,
        equivalence=equivalence,
        prior=prior,
        resamples=resamples,
        seed=seed,
    )
    if treatments is not None and not treatments:
        raise ArmNameError("No treatment is given. Name at least one arm.")
    for arm in treatments or ():
        if list(treatments or ()).count(arm) > 1:
            raise ArmNameError(f"The treatment {arm!r} is given twice. Name each arm once.")
    collected = source.collect(needs_of(declared, options))
    treatments = _treatments(collected.aggregates, control, expected_split) if treatments is None else treatments
    goals = sum(metric.role == "goal" for metric in declared) * len(treatments)
    reports = compute_reports(
        collected, declared, control, treatments, expected_split, replace(options, goals=goals), title
    )
    return [msgspec.structs.replace(report, overridden=list(overridden)) for report in reports]


def compute_reports(
    collected: Collected,
    metrics: Sequence[Declared],
    control: str,
    treatments: Sequence[str],
    expected_split: Mapping[str, float] | None,
    options: ReportOptions,
    title: str = "",
) -> list[Report]:
    """Compute one report per treatment from what a source collected.

    Args:
        collected: Aggregates of all arms, and facts about the data.
        metrics: The metrics.
        control: Label of the control.
        treatments: Labels of the treatments.
        expected_split: Weight of every planned arm, on any scale; None means equal shares.
        options: Options of the reports.
        title: Title of the reports; the source's name if empty.

    Raises:
        ArmError: An arm is missing.
    """
    pairs = [
        ArmPair(collected, control, arm, planned_split(collected.aggregates, control, arm, expected_split))
        for arm in treatments
    ]
    results = adjust_reports([[metric_result(metric, pair, options) for metric in metrics] for pair in pairs])
    return [_report(pair, metrics, rows, options, title) for pair, rows in zip(pairs, results, strict=True)]


def needs_of(metrics: Sequence[Declared], options: ReportOptions) -> Needs:
    """Return the aggregates that the metrics need: whole, by age, and as tables of values for resampling."""
    needs = merged_needs(metrics)
    for metric in metrics:
        if (parts := by_age(metric, options.ages)) is not None:
            needs |= parts.needs
        if options.resamples and isinstance(metric, Metric):
            needs |= Needs(tables=frozenset({metric.inputs}))
    return needs


def _treatments(aggregates: Aggregates, control: str, expected_split: Mapping[str, float] | None) -> list[str]:
    treatments = sorted({*aggregates.arms, *(expected_split or {})} - {control})
    if not treatments:
        raise ArmError(f"The data has no arm but {control!r}, so there is nothing to compare it with.")
    return treatments


def _report(
    pair: ArmPair, metrics: Sequence[Declared], results: list[MetricResult], options: ReportOptions, title: str
) -> Report:
    control, treatment = pair.moments()
    units = control.n + treatment.n
    checks = run_checks(pair.aggregates, pair.facts, metrics, control, treatment, pair.split)
    peeking = options.planned_units is not None and units < options.planned_units
    evidence = [evidence_of(result, options.alpha, peeking=peeking, goals=options.goals) for result in results]
    return Report(
        schema_version=SCHEMA_VERSION,
        title=title or pair.facts.source,
        control=pair.control,
        treatment=pair.treatment,
        alpha=options.alpha,
        planned_units=options.planned_units,
        design=_design(options.design, units),
        expected_split=dict(pair.split),
        verdict=reach_verdict(evidence, checks, options.alpha),
        checks=checks,
        metrics=results,
        data=_data(pair.aggregates, pair.facts),
        overridden=[],
    )


def _design(design: Design | None, units: int) -> DesignUsed | None:
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


def _data(aggregates: Aggregates, facts: Facts) -> Data:
    return Data(
        source=facts.source,
        sql=list(facts.sql),
        cut_off=facts.cut_off.isoformat() if facts.cut_off else None,
        config_versions=list(facts.config_versions),
        currency=facts.currency,
        rates=_rates(facts),
        window_seconds=facts.window.total_seconds() if facts.window else None,
        pre_period_seconds=facts.pre_period.total_seconds() if facts.pre_period else None,
        bucket_seconds=facts.bucket.total_seconds() if facts.bucket else None,
        filters=list(facts.filters),
        segment=facts.segment,
        units={arm: aggregates.count(arm) for arm in aggregates.arms},
        units_in_several_arms=facts.multiple_arms,
        enrolment=_enrolment(aggregates),
    )


def _rates(facts: Facts) -> RatesUsed | None:
    rates = facts.rates
    if rates is None:
        return None
    return RatesUsed(base=rates.base, as_of=rates.as_of.isoformat(), source=rates.source, rates=dict(rates.rates))


def _enrolment(aggregates: Aggregates) -> list[Enrolment]:
    """Count the units first exposed in each interval of time, by arm."""
    units: dict[int, dict[str, int]] = {day: dict.fromkeys(aggregates.arms, 0) for day in aggregates.days}
    for cell in aggregates.cells:
        if cell.day is not None and cell.n:
            units[cell.day][cell.arm] += cell.n
    return [Enrolment(time=to_datetime(day).isoformat(), units=counts) for day, counts in units.items()]

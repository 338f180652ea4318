"""`analyze`: a source and metrics in, one typed report out.

The report is what every renderer shows and what JSON carries. Its field names are stable; `schema_version` counts up
when one changes its meaning. All values are plain numbers, None where something is undefined, never NaN or infinity.
Money is in minor units (cents) of `data.currency`. Times are ISO 8601, UTC.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from math import isfinite
from typing import Literal

import msgspec

from analysis.aggregates import Aggregates, Moments
from analysis.checks import Check, run_checks
from analysis.decision import Decision, Judged, decide, holm
from analysis.errors import ArmError, DataError
from analysis.inference import Effect, IntervalMethod, Shape, Undefined, compare
from analysis.metrics import Direction, Metric, Role, Unit, merged_needs
from analysis.sources.base import Facts, Source, moment

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


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """Cumulative lift over the units enrolled before `time`. Intervals are for one look each, not for peeking."""

    time: str
    n_control: int
    n_treatment: int
    lift: float | None
    low: float | None
    high: float | None


class MetricResult(msgspec.Struct, frozen=True, kw_only=True):
    """One metric. control and treatment are the raw values, whatever the method; lift, low, high, p, difference are the
    headline (adjusted if the method says CUPED), and `unadjusted` stands beside it. p_adjusted: Holm over the goals."""

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
    cumulative: list[Point]


class Enrolment(msgspec.Struct, frozen=True, kw_only=True):
    """Units first exposed in the interval that starts at `time`, by arm."""

    time: str
    units: dict[str, int]


class Data(msgspec.Struct, frozen=True, kw_only=True):
    """Where the numbers come from. bucket_seconds: width of the intervals of enrolment and cumulative lift."""

    source: str
    sql: list[str]
    cut_off: str | None
    config_versions: list[int]
    currency: str | None
    window_seconds: float | None
    pre_period_seconds: float | None
    bucket_seconds: float | None
    units: dict[str, int]
    units_in_several_arms: int | None
    enrolment: list[Enrolment]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    schema_version: int
    title: str
    control: str
    treatment: str
    alpha: float
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


def analyze(
    source: Source,
    metrics: Sequence[Metric],
    control: str,
    treatment: str,
    expected_split: Mapping[str, float] | None = None,
    alpha: float = 0.05,
    *,
    interval: IntervalMethod = "fieller",
    title: str = "",
) -> Report:
    """Compare a treatment with a control.

    control, treatment: labels of the arms as they stand in the data; nothing is guessed from their order.
    expected_split: weight of every arm that was planned (any scale); None means equal shares of the arms in the data.
    alpha: 1 - coverage of the intervals, and the level of the tests. interval: how the relative lift is bounded.
    If no metric is a goal, the first one is taken for it.
    Errors: ArmError, DataError, MetricError, MissingColumnError, SourceError.
    """
    metrics = _with_goal(metrics)
    needs = merged_needs(metrics)
    if not 0 < alpha < 1:
        raise DataError(f"alpha is {alpha}, and must lie between 0 and 1, for example 0.05.")
    collected = source.collect(needs)
    aggregates, facts = collected.aggregates, collected.facts
    split = _check_arms(aggregates, control, treatment, expected_split)
    c, t = aggregates.moments(control), aggregates.moments(treatment)
    checks = run_checks(aggregates, facts, metrics, c, t, split)
    results = [
        msgspec.structs.replace(
            _result(metric, c, t, alpha, interval),
            cumulative=_cumulative(metric, aggregates, facts, control, treatment, alpha, interval),
        )
        for metric in metrics
    ]
    results = _adjusted(results)
    return Report(
        schema_version=SCHEMA_VERSION,
        title=title or facts.source,
        control=control,
        treatment=treatment,
        alpha=alpha,
        expected_split=split,
        decision=decide([_judged(result, alpha) for result in results], checks, alpha),
        checks=checks,
        metrics=results,
        data=_data(aggregates, facts),
    )


def _with_goal(metrics: Sequence[Metric]) -> list[Metric]:
    from dataclasses import replace

    if not metrics or any(metric.role == "goal" for metric in metrics):
        return list(metrics)
    return [replace(metrics[0], role="goal"), *metrics[1:]]


def _check_arms(
    aggregates: Aggregates, control: str, treatment: str, expected: Mapping[str, float] | None
) -> dict[str, float]:
    """The expected split, after making sure that there is something to compare."""
    if control == treatment:
        raise ArmError(f"Control and treatment are both {control!r}. Name two different arms.")
    for arm, weight in (expected or {}).items():
        if not (isfinite(weight) and weight > 0):
            raise ArmError(f"The expected share of arm {arm!r} is {weight}, and must be above 0.")
    there = ", ".join(repr(arm) for arm in aggregates.arms) or "none"
    for role, arm in (("control", control), ("treatment", treatment)):
        if arm not in aggregates.arms and arm not in (expected or {}):
            raise ArmError(f"The {role} {arm!r} is not an arm of the data. Its arms: {there}.")
        if expected is not None and arm not in expected:
            raise ArmError(
                f"The expected split does not name the {role} {arm!r}; it names {', '.join(sorted(expected))}."
            )
    return dict(sorted((expected or dict.fromkeys(aggregates.arms, 1.0)).items()))


def _result(metric: Metric, c: Moments, t: Moments, alpha: float, interval: IntervalMethod) -> MetricResult:
    effect = compare(metric, c, t, alpha=alpha, method=interval)
    headline = _comparison(effect, interval)
    adjusted = isinstance(effect, Effect) and effect.theta is not None
    return MetricResult(
        name=metric.name,
        label=metric.label or metric.name,
        description=metric.description,
        owner=metric.owner,
        unit=metric.unit,
        direction=metric.direction,
        role=metric.role,
        control=metric.value(c.means) if c.n else None,
        treatment=metric.value(t.means) if t.n else None,
        n_control=c.n,
        n_treatment=t.n,
        p_adjusted=None,
        note=_note(metric, effect),
        variance_reduction=effect.variance_reduction if isinstance(effect, Effect) else None,
        unadjusted=_comparison(compare(metric, c, t, alpha=alpha, method=interval, adjust=False), interval)
        if adjusted
        else None,
        cumulative=[],
        **msgspec.structs.asdict(headline),
    )


def _comparison(effect: Effect | Undefined, interval: IntervalMethod) -> Comparison:
    if isinstance(effect, Undefined):
        names = ("lift", "low", "high", "p", "difference", "difference_low", "difference_high", "standard_error", "df")
        return Comparison(**dict.fromkeys(names), interval="undefined", method="none")
    bounds, d = effect.interval, effect.difference
    bounded = bounds is not None and bounds.shape == "bounded"
    return Comparison(
        lift=effect.lift,
        low=bounds.low if bounds is not None and bounded else None,
        high=bounds.high if bounds is not None and bounded else None,
        interval=bounds.shape if bounds is not None else "undefined",
        p=d.p,
        difference=d.value,
        difference_low=d.low,
        difference_high=d.high,
        standard_error=d.standard_error,
        df=d.df,
        method=f"{'cuped+' if effect.theta is not None else ''}welch+{interval}",
    )


def _note(metric: Metric, effect: Effect | Undefined) -> str:
    """What a reader of this row must know, in one sentence; empty if nothing."""
    if isinstance(effect, Undefined):
        return f"No effect: {effect.reason}."
    if effect.interval is None:
        return "The control's value is not above 0, so a relative lift has no meaning; read the difference."
    if effect.interval.shape != "bounded":
        return "The control's value is not clearly above 0, so the lift's interval is unbounded; read the difference."
    if metric.covariate and effect.theta is None:
        return f"Not adjusted: the covariate {metric.covariate} does not vary."
    return ""


def _cumulative(
    metric: Metric,
    aggregates: Aggregates,
    facts: Facts,
    control: str,
    treatment: str,
    alpha: float,
    interval: IntervalMethod,
) -> list[Point]:
    """The lift over the units enrolled until the end of each interval, from the cells that are there already."""
    points = []
    for day in aggregates.days:
        c, t = aggregates.moments(control, until=day), aggregates.moments(treatment, until=day)
        shown = _comparison(compare(metric, c, t, alpha=alpha, method=interval), interval)
        end = moment(day) + (facts.bucket or timedelta(0))
        points.append(
            Point(
                time=(min(end, facts.cut_off) if facts.cut_off else end).isoformat(),
                n_control=c.n,
                n_treatment=t.n,
                lift=shown.lift,
                low=shown.low,
                high=shown.high,
            )
        )
    return points


def _adjusted(results: list[MetricResult]) -> list[MetricResult]:
    """Holm over the goals; a metric that decides nothing needs no correction here."""
    goals = [index for index, result in enumerate(results) if result.role == "goal"]
    adjusted = list(results)
    for index, p in zip(goals, holm([results[index].p for index in goals]), strict=True):
        adjusted[index] = msgspec.structs.replace(results[index], p_adjusted=p)
    return adjusted


def _judged(result: MetricResult, alpha: float) -> Judged:
    if result.p is None:
        described = result.note.removesuffix(".") or "no test"
    elif result.lift is None or result.low is None or result.high is None:
        described = f"no bounded lift, p = {result.p:.2g}"
    else:
        described = f"{result.lift:+.1%} ({1 - alpha:.0%} interval {result.low:+.1%} to {result.high:+.1%})"
        described = described.replace("-", "−")
    return Judged(
        label=result.label,
        role=result.role,
        direction=result.direction,
        difference=result.difference,
        p=result.p_adjusted if result.role == "goal" else result.p,
        described=described,
    )


def _data(aggregates: Aggregates, facts: Facts) -> Data:
    enrolment = [
        Enrolment(
            time=moment(day).isoformat(),
            units={
                arm: sum(cell.n for cell in aggregates.cells if cell.day == day and cell.arm == arm)
                for arm in aggregates.arms
            },
        )
        for day in aggregates.days
    ]
    return Data(
        source=facts.source,
        sql=list(facts.sql),
        cut_off=facts.cut_off.isoformat() if facts.cut_off else None,
        config_versions=list(facts.config_versions),
        currency=facts.currency,
        window_seconds=facts.window.total_seconds() if facts.window else None,
        pre_period_seconds=facts.pre_period.total_seconds() if facts.pre_period else None,
        bucket_seconds=facts.bucket.total_seconds() if facts.bucket else None,
        units={arm: aggregates.count(arm) for arm in aggregates.arms},
        units_in_several_arms=facts.multiple_arms,
        enrolment=enrolment,
    )

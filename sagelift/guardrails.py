"""Guardrails of running experiments: a sequential test that is valid at any look, and the reaction to a breach.

Joins `experiments` (guardrails, life cycle) with `analysis` (statistics); these packages do not import each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sagelift.experiment_report import declare_metrics, planned_metrics

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from analysis.metrics import Declared
    from analysis.results import MetricResult
    from experiments.config import PublishedExperiment
    from experiments.store import ExperimentStore

GuardrailVerdict = Literal["breached", "holds", "too early"]
Reaction = Literal["hold", "pause", "stop"]
"""What happens to an experiment after a breach."""

PLANNED_UNITS = 100_000
"""Planned units of an experiment whose config has none."""

SMALLEST_ARM = 100
"""Number of units that each arm needs before a guardrail is judged, because a confidence sequence is asymptotic."""


@dataclass(frozen=True)
class GuardrailResult:
    """A guardrail at one look.

    Attributes:
        experiment: Key of the experiment.
        version: Version of its config.
        metric: Name of the metric.
        treatment: Treatment arm.
        direction: Whether an increase or a decrease of the metric is good.
        worst: Tolerated relative lift: a negative number where an increase is good; 0 without a margin.
        verdict: `breached` if the guardrail vetoes (`analysis.verdict.vetoes`); `holds` if it does not.
        control_value: Value of the metric in control.
        treatment_value: Value of the metric in the treatment.
        n_control: Number of units in control.
        n_treatment: Number of units in the treatment.
        lift: Relative lift.
        low: Lower bound of the lift, valid at all looks together.
        high: Upper bound of the lift, valid at all looks together.
        p: p-value, valid at all looks together.
        alpha: Level of this test, after division by the number of tests.
        planned_units: Planned number of units of control and one treatment.
        cut_off: End of the data, in ISO 8601.
    """

    experiment: str
    version: int
    metric: str
    treatment: str
    direction: str
    worst: float
    verdict: GuardrailVerdict
    control_value: float | None
    treatment_value: float | None
    n_control: int
    n_treatment: int
    lift: float | None
    low: float | None
    high: float | None
    p: float | None
    alpha: float
    planned_units: int
    cut_off: str | None

    @property
    def evidence(self) -> dict[str, Any]:
        """Return the result in the form that the history of the experiment stores."""
        return asdict(self)

    def __str__(self) -> str:
        bounds = "no bounds" if self.low is None or self.high is None else f"[{self.low:+.2%}, {self.high:+.2%}]"
        name = f"{self.experiment} {self.treatment} {self.metric}"
        return f"{name}: {self.verdict}, lift {bounds}, tolerated {self.worst:+.2%}"


def judge_running(
    store: ExperimentStore,
    keys: Sequence[str] | None = None,
    *,
    metrics_file: Path | None = None,
    planned_units: int | None = None,
    window: timedelta | None = None,
    on_breach: Reaction | None = None,
) -> list[GuardrailResult]:
    """Judge the guardrails of running experiments and react to breaches.

    Args:
        store: Store of the experiments.
        keys: Keys of the experiments; None for all that run.
        metrics_file: YAML file that declares the metrics; None for the published metrics, or else a shop's usual ones.
        planned_units: Planned number of units of control and one treatment; None for that of each config, or else
            `PLANNED_UNITS`.
        window: Time after first exposure that counts; None for that of each config.
        on_breach: What to do after a breach; None to do nothing.

    Raises:
        UnknownExperimentError: One of the keys is not a running experiment.
        ReportPlanError: A config names a guardrail that is not declared.
    """
    from experiments.errors import UnknownExperimentError

    metrics = declare_metrics(store, metrics_file).metrics
    running = {published.config.key: published for published in store.load(("running",))}
    if missing := [key for key in keys or () if key not in running]:
        raise UnknownExperimentError(f"no running experiment {missing[0]!r}; `sagelift experiment list` lists them.")
    results: list[GuardrailResult] = []
    for key in running if keys is None else keys:
        plan = running[key].config.analysis
        judged = judge(
            store.engine,
            running[key],
            metrics,
            planned_units=planned_units or plan.planned_units or PLANNED_UNITS,
            window=timedelta(days=plan.window_days) if window is None else window,
        )
        if on_breach is not None:
            react(store, judged, on_breach)
        results += judged
    return results


def judge(
    engine: Engine,
    published: PublishedExperiment,
    metrics: Sequence[Declared],
    *,
    planned_units: int,
    window: timedelta,
    alpha: float = 0.05,
) -> list[GuardrailResult]:
    """Judge every guardrail of an experiment for each treatment.

    The probability that any test of the experiment ever reports a breach by chance is at most `alpha`, however often
    this is called: Bonferroni's correction over metrics and treatments, a confidence sequence over time.

    Args:
        engine: Experiment database.
        published: The experiment.
        metrics: Declared metrics.
        planned_units: Planned number of units of control and one treatment, where the sequence is narrowest. It must
            be the same at every look.
        window: Time after first exposure that counts.
        alpha: Level of all tests of the experiment together.

    Returns:
        One result per treatment and guardrail; none while no unit is exposed.
    """
    from analysis.errors import ArmError
    from analysis.report import analyze_arms
    from analysis.sources.experiment_tables import ExperimentTables

    config = published.config
    guardrails = planned_metrics(config, metrics, "guardrail")
    if not guardrails:
        return []
    treatments = [arm.key for arm in config.arms if arm.key != config.control]
    level = alpha / (len(guardrails) * len(treatments))
    split = {arm.key: float(arm.weight) for arm in config.arms}
    source = ExperimentTables(engine, config.key, window=window)
    try:
        reports = analyze_arms(
            source, guardrails, config.control, treatments, split, level, planned_units=planned_units, title=config.key
        )
    except ArmError:
        return []
    return [
        _result(published, report.treatment, result, level, planned_units, report.data.cut_off)
        for report in reports
        for result in report.metrics
    ]


def verdict_of(result: MetricResult) -> GuardrailVerdict:
    """Apply the rule of reports (`analysis.verdict.vetoes`) to the confidence sequence of a guardrail.

    Args:
        result: Result with a confidence sequence.
    """
    from analysis.verdict import vetoes

    anytime = result.anytime
    if anytime is None or min(result.n_control, result.n_treatment) < SMALLEST_ARM:
        return "too early"
    low, high = anytime.low, anytime.high
    if result.direction == "decrease":  # a fall is an improvement
        low, high = None if high is None else -high, None if low is None else -low
    ruled_out = None if result.margin is None else low is not None and low > -result.margin.margin
    return "breached" if vetoes(worse=high is not None and high < 0, ruled_out=ruled_out) else "holds"


def _result(
    published: PublishedExperiment,
    treatment: str,
    result: MetricResult,
    alpha: float,
    planned_units: int,
    cut_off: str | None,
) -> GuardrailResult:
    anytime = result.anytime
    margin = 0.0 if result.margin is None else result.margin.margin
    worst = -margin if result.direction == "increase" else margin
    return GuardrailResult(
        experiment=published.config.key,
        version=published.version,
        metric=result.name,
        treatment=treatment,
        direction=result.direction,
        worst=worst,
        verdict=verdict_of(result),
        control_value=result.control,
        treatment_value=result.treatment,
        n_control=result.n_control,
        n_treatment=result.n_treatment,
        lift=result.lift,
        low=None if anytime is None else anytime.low,
        high=None if anytime is None else anytime.high,
        p=None if anytime is None else anytime.p,
        alpha=alpha,
        planned_units=planned_units,
        cut_off=cut_off,
    )


def react(store: ExperimentStore, results: Sequence[GuardrailResult], reaction: Reaction) -> GuardrailResult | None:
    """Hold, pause or stop an experiment after a breach, with the result as evidence.

    Args:
        store: Store of the experiment.
        results: Results of one experiment.
        reaction: What to do.

    Returns:
        The first breached guardrail, which the history names as the reason; None without a breach.
    """
    breached = next((result for result in results if result.verdict == "breached"), None)
    if breached is None:
        return None
    key, reason = breached.experiment, f"guardrail {breached.metric} is breached in {breached.treatment}"
    if reaction == "hold":
        store.hold(key, actor="guardrails", reason=reason, evidence=breached.evidence)
    else:
        state: Literal["paused", "stopped"] = "paused" if reaction == "pause" else "stopped"
        store.transition(key, state, actor="guardrails", reason=reason, evidence=breached.evidence)
    return breached

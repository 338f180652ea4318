"""Guardrails of a running experiment: the sequential test that may be looked at at any time, and what to do when one is
breached. Joins `experiments` (what is guarded, the life cycle) and `analysis` (the numbers), which know nothing of each
other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from sagelift.errors import SageliftError

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from analysis.metrics import Declared
    from analysis.results import MetricResult
    from experiments.config import ExperimentConfig, PublishedExperiment
    from experiments.store import ExperimentStore

Verdict = Literal["breached", "holds", "too early"]
SMALLEST_ARM = 100
"""Units that each arm needs before a guardrail is judged: a confidence sequence is asymptotic."""


class GuardrailError(SageliftError, ValueError):
    """A guardrail that cannot be judged."""


@dataclass(frozen=True)
class Judged:
    """A guardrail at one look. `low`, `high`: of the relative lift, valid at all looks together; `worst`: the loss that
    is tolerated, as a lift. `alpha` is the level of this one test, after division by the number of tests.
    """

    experiment: str
    version: int
    metric: str
    treatment: str
    direction: str
    worst: float
    verdict: Verdict
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
        """As it is kept with the transition."""
        return asdict(self)

    def __str__(self) -> str:
        bounds = "no bounds" if self.low is None or self.high is None else f"[{self.low:+.2%}, {self.high:+.2%}]"
        name = f"{self.experiment} {self.treatment} {self.metric}"
        return f"{name}: {self.verdict}, lift {bounds}, tolerated {self.worst:+.2%}"


def guarded(config: ExperimentConfig, metrics: Sequence[Declared]) -> list[Declared]:
    """The declared metrics that the config names as guardrails.

    Raises:
        GuardrailError: it names one that is not declared.
    """
    declared = {metric.name: metric for metric in metrics}
    keys = [metric.key for metric in config.metrics if metric.role == "guardrail"]
    if unknown := [key for key in keys if key not in declared]:
        raise GuardrailError(
            f"experiment {config.key!r} names the guardrail {', '.join(unknown)}, which is not declared (there are "
            f"{', '.join(sorted(declared))}): declare it in the file of --metrics, or take it out of the config"
        )
    return [declared[key] for key in keys]


def judge(
    engine: Engine,
    published: PublishedExperiment,
    metrics: Sequence[Declared],
    *,
    planned_units: int,
    window: timedelta,
    alpha: float = 0.05,
) -> list[Judged]:
    """Every guardrail of an experiment, for each treatment; none where nobody was exposed yet.

    All tests of the experiment together breach by chance at most with chance alpha, however often this is called:
    Bonferroni over metrics and treatments, a confidence sequence over time.
    planned_units: of control and one treatment, for which the sequence is sharpest; the same at every look.
    """
    from analysis.errors import ArmError
    from analysis.report import analyze_arms
    from analysis.sources.experiment_tables import ExperimentTables

    config = published.config
    wanted = guarded(config, metrics)
    if not wanted:
        return []
    treatments = [arm.key for arm in config.arms if arm.key != config.control]
    level = alpha / (len(wanted) * len(treatments))
    split = {arm.key: float(arm.weight) for arm in config.arms}
    # Of the declarations: a report without a goal takes its first metric for one, and a goal has no margin.
    margins = {metric.name: metric.margin for metric in wanted}
    source = ExperimentTables(engine, config.key, window=window)
    try:
        reports = analyze_arms(
            source, wanted, config.control, treatments, split, level, planned_units=planned_units, title=config.key
        )
    except ArmError:
        return []
    judged = []
    for report in reports:
        for result in report.metrics:
            margin = margins[result.name] or 0.0
            judged.append(
                _judged(published, report.treatment, result, margin, level, planned_units, report.data.cut_off)
            )
    return judged


def _judged(
    published: PublishedExperiment,
    treatment: str,
    result: MetricResult,
    margin: float,
    alpha: float,
    planned_units: int,
    cut_off: str | None,
) -> Judged:
    anytime = result.anytime
    low, high = (anytime.low, anytime.high) if anytime is not None else (None, None)
    worst = -margin if result.direction == "increase" else margin
    verdict: Verdict = "holds"
    if min(result.n_control, result.n_treatment) < SMALLEST_ARM or anytime is None:
        verdict = "too early"
    elif result.direction == "increase":
        verdict = "breached" if high is not None and high < worst else "holds"
    else:
        verdict = "breached" if low is not None and low > worst else "holds"
    return Judged(
        experiment=published.config.key,
        version=published.version,
        metric=result.name,
        treatment=treatment,
        direction=result.direction,
        worst=worst,
        verdict=verdict,
        control_value=result.control,
        treatment_value=result.treatment,
        n_control=result.n_control,
        n_treatment=result.n_treatment,
        lift=result.lift,
        low=low,
        high=high,
        p=anytime.p if anytime is not None else None,
        alpha=alpha,
        planned_units=planned_units,
        cut_off=cut_off,
    )


def act(store: ExperimentStore, judged: Sequence[Judged], action: Literal["hold", "pause", "stop"]) -> Judged | None:
    """Does to one experiment what a breach calls for, with the evidence; the guardrail that was breached, if any.

    The first is enough: it is the reason that the life cycle keeps.
    """
    breached = next((each for each in judged if each.verdict == "breached"), None)
    if breached is None:
        return None
    key, reason = breached.experiment, f"guardrail {breached.metric} is breached in {breached.treatment}"
    if action == "hold":
        store.hold(key, actor="guardrails", reason=reason, evidence=breached.evidence)
    else:
        state: Literal["paused", "stopped"] = "paused" if action == "pause" else "stopped"
        store.transition(key, state, actor="guardrails", reason=reason, evidence=breached.evidence)
    return breached

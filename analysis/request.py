"""What a report is asked for: options, metrics with a goal, and the arms with their planned split. All are checked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite

from analysis.aggregates import Aggregates
from analysis.bayes import Prior
from analysis.columns import Window
from analysis.errors import ArgumentError, ArmNameError
from analysis.inference import IntervalMethod
from analysis.metrics import Declared
from analysis.novelty import check_ages
from analysis.sequential import Design
from analysis.validation import check_alpha, check_count, check_scalar, check_seed


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Options of a report; `analyze` describes them.

    Attributes:
        alpha: 1 - coverage of the intervals, and the level of the tests.
        interval: Method of the lift's interval.
        planned_units: Planned units of both arms, for confidence sequences.
        design: Group-sequential design, with this report as its next look.
        ages: Intervals of time since exposure, one after the other.
        precision: Half-width of the lift's interval for which the report estimates the remaining time.
        equivalence: Margin of equivalence, on the lift.
        prior: Prior of the lift.
        resamples: Resamples of the bootstrap and the permutation test; 0 for neither.
        seed: Random seed of the resamples.
        goals: Number of goals of all treatments, which share alpha.

    Raises:
        ArgumentError: An option is out of range, or two options exclude each other.
    """

    alpha: float = 0.05
    interval: IntervalMethod = "fieller"
    planned_units: int | None = None
    design: Design | None = None
    ages: Sequence[Window] = ()
    precision: float = 0.02
    equivalence: float | None = None
    prior: Prior | None = None
    resamples: int = 0
    seed: int = 0
    goals: int = 1

    def __post_init__(self) -> None:
        check_alpha(self.alpha)
        check_seed(self.seed)
        if self.planned_units is not None and self.planned_units < 1:
            raise ArgumentError(f"planned_units is {self.planned_units}, and must be at least 1.")
        if self.planned_units is not None and self.design is not None:
            raise ArgumentError(
                "Both design and planned_units are given. A design has its own planned units: give the design, or give "
                "planned_units for confidence sequences."
            )
        if self.ages:
            check_ages(self.ages)
        if self.resamples:
            check_count(self.resamples, "resamples", ge=100)
        if self.equivalence is not None:
            check_scalar(self.equivalence, "equivalence", gt=0, lt=1)


def with_goal(metrics: Sequence[Declared]) -> list[Declared]:
    """Return the metrics; if none of them is a goal, the first one that is not a guardrail becomes one.

    A guardrail stays a guardrail: a report of guardrails only has no goal.
    """
    declared = list(metrics)
    if any(metric.role == "goal" for metric in declared):
        return declared
    for index, metric in enumerate(declared):
        if metric.role == "secondary":
            declared[index] = replace(metric, role="goal")
            break
    return declared


def planned_split(
    aggregates: Aggregates, control: str, treatment: str, expected: Mapping[str, float] | None
) -> dict[str, float]:
    """Return the planned split by arm, sorted; equal shares of the arms in the data where no split is given.

    Args:
        aggregates: Aggregates of all arms.
        control: Label of the control.
        treatment: Label of the treatment.
        expected: Weight of every planned arm, on any scale.

    Raises:
        ArmNameError: The arms are the same, an arm is missing, or a weight is not above 0.
    """
    if control == treatment:
        raise ArmNameError(f"Control and treatment are both {control!r}. Name two different arms.")
    for arm, weight in (expected or {}).items():
        if not (isfinite(weight) and weight > 0):
            raise ArmNameError(f"The expected share of arm {arm!r} is {weight}, and must be above 0.")
    in_data = ", ".join(repr(arm) for arm in aggregates.arms) or "none"
    for role, arm in (("control", control), ("treatment", treatment)):
        if arm not in aggregates.arms and arm not in (expected or {}):
            raise ArmNameError(f"The {role} {arm!r} is not an arm of the data. Its arms: {in_data}.")
        if expected is not None and arm not in expected:
            raise ArmNameError(
                f"The expected split does not name the {role} {arm!r}; it names {', '.join(sorted(expected))}."
            )
    return dict(sorted((expected or dict.fromkeys(aggregates.arms, 1.0)).items()))

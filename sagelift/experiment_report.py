"""What a report of a published experiment computes: all of it comes from the config, and overrides are stated.

Joins `experiments` (config and published metrics) with `analysis` (the statistics), which do not import each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from sagelift.errors import SageliftError

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from analysis.config import Declarations
    from analysis.metrics import Declared
    from analysis.sequential import Design
    from analysis.sources.experiment_tables import ExperimentTables
    from experiments.config import AnalysisPlan, ExperimentConfig
    from experiments.store import ExperimentStore


class ReportPlanError(SageliftError, ValueError):
    """A report cannot be derived from an experiment's config."""


@dataclass(frozen=True, kw_only=True)
class ReportPlan:
    """What a report of an experiment computes.

    Attributes:
        experiment: Key of the experiment.
        config: Config in force; None for an experiment without a published one.
        analysis: How the experiment is analysed.
        control: Control arm.
        treatments: Treatment arms; None for all arms of the data but the control.
        split: Weight of each arm; None for equal shares.
        metrics: Metrics with their roles and margins.
        declarations: Metrics and rates as they are declared, without the roles of the config.
        overridden: Where the plan departs from the config, one sentence each.
    """

    experiment: str
    config: ExperimentConfig | None
    analysis: AnalysisPlan
    control: str | None
    treatments: Sequence[str] | None
    split: Mapping[str, float] | None
    metrics: Sequence[Declared]
    declarations: Declarations
    overridden: tuple[str, ...] = ()

    @property
    def window(self) -> timedelta:
        """Time after first exposure that counts."""
        return timedelta(days=self.analysis.window_days)

    @property
    def has_roles(self) -> bool:
        """Whether the config states which metrics decide."""
        return self.config is not None and bool(self.config.metrics)

    def override(self, what: str, given: object, **changes: object) -> ReportPlan:
        """Return the plan with other values. The plan states what differs from the config.

        Args:
            what: Name of the overridden value, for the sentence.
            given: The value that replaces the config's, for the sentence.
            changes: Fields of the plan, or of its analysis.
        """
        from msgspec import structs

        of_plan = {name: value for name, value in changes.items() if name in self.__dataclass_fields__}
        of_analysis = {name: value for name, value in changes.items() if name not in of_plan}
        plan = replace(self, **of_plan, analysis=structs.replace(self.analysis, **of_analysis))  # type: ignore[arg-type]
        if self.config is None or plan == self:
            return plan
        before = [getattr(self if name in of_plan else self.analysis, name) for name in changes]
        sentence = f"{what} {_text(given)} instead of {_text(before[0])}"
        return replace(plan, overridden=(*self.overridden, sentence))

    def with_metrics(self, metrics: Sequence[Declared]) -> ReportPlan:
        """Return the plan with other roles and margins of its metrics, which it states."""
        changed = [
            f"{new.name} is {_role(new)} instead of {_role(old)}"
            for old, new in zip(self.metrics, metrics, strict=True)
            if (old.role, old.margin) != (new.role, new.margin)
        ]
        stated = changed if self.config is not None else []
        return replace(self, metrics=metrics, overridden=(*self.overridden, *stated))

    def source(
        self, engine: Engine, *, as_of: datetime | None = None, complete_windows_only: bool = False
    ) -> ExperimentTables:
        """Return the source of the report.

        Args:
            engine: Experiment database.
            as_of: Data cut-off; None for the newest row.
            complete_windows_only: Whether to leave out units whose window has not ended.
        """
        from analysis.sources.experiment_tables import LATE, ExperimentTables

        table, dot, column = (self.analysis.segment or "").rpartition(".")
        return ExperimentTables(
            engine,
            self.experiment,
            window=self.window,
            pre_period=timedelta(days=self.analysis.pre_period_days),
            as_of=as_of,
            complete_windows_only=complete_windows_only,
            rates=self.declarations.rates,
            segments=(table, column) if dot else self.analysis.segment,
            late_after=None if self.analysis.backfilled else LATE,
        )

    def at_planned_look(self, design: Design, units: int) -> tuple[ReportPlan, Design]:
        """Return a design whose earlier looks are the planned ones, and the plan, which states an unplanned look.

        Args:
            design: Group-sequential design without earlier looks.
            units: Units of the control and one treatment so far.
        """
        reached = [look for look in (*self.analysis.looks, design.planned_units) if look <= units]
        plan = self
        if not reached:
            first = (*self.analysis.looks, design.planned_units)[0]
            early = f"read at {units:,} units instead of at the first planned look of {first:,}"
            plan = replace(self, overridden=(*self.overridden, early))
        return plan, replace(design, earlier=tuple(reached[:-1]))


def plan_report(store: ExperimentStore, key: str, metrics_file: Path | None = None) -> ReportPlan:
    """Return the plan of an experiment's report, from the config in force and the published metrics.

    Args:
        store: Store of the experiment.
        key: Key of the experiment.
        metrics_file: YAML file whose metrics replace the published ones of the same name, and add others.

    Raises:
        UnknownExperimentError: The experiment does not exist.
        ReportPlanError: The config names a metric that is not declared.
    """
    from experiments.config import AnalysisPlan

    config = config_in_force(store, key)
    from_file = _load_file(metrics_file)
    declarations = _declared(store, from_file)
    in_file = from_file.metrics
    if config is None or not config.metrics:
        metrics = [*in_file] or [*declarations.metrics]
    else:
        metrics = planned_metrics(config, declarations.metrics)
        named = {metric.name for metric in metrics}
        metrics += [metric for metric in in_file if metric.name not in named]
    stated = () if metrics_file is None or config is None else (f"metrics of {metrics_file} before the published ones",)
    arms = {} if config is None else {arm.key: float(arm.weight) for arm in config.arms}
    return ReportPlan(
        experiment=key,
        config=config,
        analysis=AnalysisPlan() if config is None else config.analysis,
        control=None if config is None else config.control,
        treatments=None if config is None else [arm for arm in arms if arm != config.control],
        split=arms or None,
        metrics=metrics,
        declarations=declarations,
        overridden=stated,
    )


def config_in_force(store: ExperimentStore, key: str) -> ExperimentConfig | None:
    """Return the config in force, or the newest one of a draft; None where nothing is published.

    Raises:
        UnknownExperimentError: The experiment does not exist.
    """
    in_force = store.history(key)[-1].version
    versions = store.versions(key)
    if in_force is None:
        return versions[-1].config if versions else None
    return next(version.config for version in versions if version.version == in_force)


def declare_metrics(store: ExperimentStore, file: Path | None) -> Declarations:
    """Return the declared metrics: those of a file, then the published ones, or else a shop's usual ones."""
    return _declared(store, _load_file(file))


def _declared(store: ExperimentStore, from_file: Declarations) -> Declarations:
    from analysis.config import Declarations, declared_metrics
    from analysis.metrics import shop_metrics

    published = [metric.definition for metric in store.metrics()]
    by_name = {metric.name: metric for metric in (declared_metrics(published) if published else shop_metrics())}
    by_name |= {metric.name: metric for metric in from_file.metrics}
    return Declarations(tuple(by_name.values()), from_file.rates)


def _load_file(file: Path | None) -> Declarations:
    from analysis.config import Declarations, load_metrics

    return Declarations(()) if file is None else load_metrics(file)


def planned_metrics(config: ExperimentConfig, declared: Iterable[Declared], role: str | None = None) -> list[Declared]:
    """Return the metrics that a config names, in its order, with the roles and margins that it states.

    Args:
        config: The config.
        declared: Declared metrics.
        role: Only metrics of this role; None for all.

    Raises:
        ReportPlanError: The config names a metric that is not declared.
    """
    by_name = {metric.name: metric for metric in declared}
    planned = [metric for metric in config.metrics if role is None or metric.role == role]
    if unknown := [metric for metric in planned if metric.key not in by_name]:
        names = ", ".join(metric.key for metric in unknown)
        raise ReportPlanError(
            f"experiment {config.key!r} names the {unknown[0].role} {names}, which is not declared (declared: "
            f"{', '.join(sorted(by_name))}); declare it in the file of --metrics, or remove it from the config"
        )
    metrics = []
    for metric in planned:
        declaration = by_name[metric.key]
        margin = (metric.margin or declaration.margin) if metric.role == "guardrail" else None
        metrics.append(replace(declaration, role=metric.role, margin=margin))
    return metrics


def count_units(engine: Engine, key: str, arms: Iterable[str], as_of: datetime | None = None) -> dict[str, int]:
    """Return the number of units that each arm has, in the current phase and until a time."""
    from sqlalchemy import func, select

    from analysis.sources.experiment_schema import first_exposure
    from analysis.times import since_epoch

    t = first_exposure.c
    query = select(t.arm, func.count()).where(t.experiment == key).group_by(t.arm)
    if as_of is not None:
        query = query.where(t.first_time <= since_epoch(as_of))
    with engine.connect() as connection:
        counts = {arm: int(count) for arm, count in connection.execute(query)}
    return {arm: counts.get(arm, 0) for arm in arms}


def _role(metric: Declared) -> str:
    return f"a {metric.role}" + (f" with a margin of {metric.margin * 100:g} %" if metric.margin else "")


def _text(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={weight:g}" for name, weight in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)

"""Experiments: assignment that anyone can recompute, exposures, and a life cycle that prevents mistakes.

In the order in which data passes:

    what an experiment is   `config` (with `targeting`, `attributes`), `config_parsing` (YAML, JSON), `config_files`
                            (files that a team reviews), `layers`, `metrics`
    which steps are valid   `lifecycle` (states), `edits` (of a live config), `compatibility` (between experiments)
    how it is stored        `store` (the facade) -> `editor`, `schedule`, `shared_definitions` (writes), `queries`
                            (reads of `records`), `audit`; `tables`, `migrations`, `database_schema`, `engine`
    who gets which arm      `kernel` (a hash to buckets) -> `evaluator` (buckets to an `assignment`),
                            `bulk_assignment` (a column of units), `warehouse_sql` (the same in SQL),
                            `assignment_vectors` and `conformance` (that all of them agree)
    in a service            `assigner` (configs in memory), `refresh`, `config_cache`, `notifications` (polling, push),
                            `rest` (HTTP), `openfeature_provider`, `api_keys` and `roles`
    what is logged          `exposures` (`recent_units` skips repetitions) -> `event_rows` -> `event_writer` (a batch
                            in one transaction), `engagements`
    beside A/B tests        `interleaving` (two rankings in one list)
    privacy                 `privacy` (tokens in place of unit ids, and their erasure)
    used by all             `errors`, `validation_errors`, `text_rules`, `times`, `json_schemas`

docs/reference/assignment-spec.md numbers the rules of assignment. The names below are the public API; they are imported
on first use, so that a command that needs one of them does not load SQLAlchemy or NumPy for the others.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from experiments.assigner import Assigner
    from experiments.assignment import Assignment, Reason
    from experiments.bulk_assignment import assign_column
    from experiments.config import Arm, ExperimentConfig, PublishedExperiment
    from experiments.config_parsing import load_yaml
    from experiments.errors import ExperimentsError
    from experiments.evaluator import PreparedExperiment, prepare, prepare_all
    from experiments.exposures import ExposureLogger
    from experiments.interleaving import team_draft
    from experiments.notifications import ChangeListener
    from experiments.privacy import Tokens
    from experiments.store import ExperimentStore
    from experiments.warehouse_sql import bucket_sql

_MODULES = {
    "Arm": "config",
    "Assigner": "assigner",
    "Assignment": "assignment",
    "ChangeListener": "notifications",
    "ExperimentConfig": "config",
    "ExperimentStore": "store",
    "ExperimentsError": "errors",
    "ExposureLogger": "exposures",
    "PreparedExperiment": "evaluator",
    "PublishedExperiment": "config",
    "Reason": "assignment",
    "Tokens": "privacy",
    "assign_column": "bulk_assignment",
    "bucket_sql": "warehouse_sql",
    "load_yaml": "config_parsing",
    "prepare": "evaluator",
    "prepare_all": "evaluator",
    "team_draft": "interleaving",
}

__all__ = [
    "Arm",
    "Assigner",
    "Assignment",
    "ChangeListener",
    "ExperimentConfig",
    "ExperimentStore",
    "ExperimentsError",
    "ExposureLogger",
    "PreparedExperiment",
    "PublishedExperiment",
    "Reason",
    "Tokens",
    "assign_column",
    "bucket_sql",
    "load_yaml",
    "prepare",
    "prepare_all",
    "team_draft",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)

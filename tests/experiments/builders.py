"""What several tests of experiments build: actors, times, configs that differ in some fields, live experiments."""

from typing import Any

import msgspec

from experiments.config import ExperimentConfig
from experiments.store import ExperimentStore

WHO: dict[str, str] = {"actor": "ada", "reason": "test"}
NOW = 1_700_000_000_000_000
HOUR = 3_600_000_000


class Clock:
    """A clock in microseconds UTC that a test sets by hand."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> int:
        return self.now


def changed(config: ExperimentConfig, **changes: Any) -> ExperimentConfig:
    """A config with other values in some fields."""
    return msgspec.structs.replace(config, **changes)


def start_live(store: ExperimentStore, config: ExperimentConfig) -> None:
    """Create, publish and start an experiment."""
    store.create_experiment(config.key, actor="ada")
    store.publish(config, actor="ada")
    store.start(config.key, **WHO)

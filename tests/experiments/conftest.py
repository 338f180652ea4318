"""A store on a SQLite file of its own, and a config to begin with."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from experiments.config import Arm, ExperimentConfig
from experiments.store import ExperimentStore


@pytest.fixture
def config() -> ExperimentConfig:
    return ExperimentConfig(
        key="ranking",
        salt="ranking-1",
        coverage=10_000,
        arms=(Arm("control", 5_000), Arm("treatment", 5_000)),
        control="control",
    )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ExperimentStore]:
    engine = create_engine(f"sqlite:///{tmp_path / 'experiments.db'}")
    store = ExperimentStore(engine, clock=lambda: 1_700_000_000_000_000)
    store.create_all()
    yield store
    engine.dispose()

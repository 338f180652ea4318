"""Actors, times, configs and live experiments that several tests of experiments use."""

import threading
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
from hypothesis import strategies as st
from sqlalchemy import Engine, text

from experiments.config import (
    Arm,
    ExperimentConfig,
    Holdout,
    LayerRange,
    Override,
    Prerequisite,
    PublishedExperiment,
    RampStep,
)
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


def ramp_step(hours: int, coverage: int) -> RampStep:
    """A ramp step some hours after (or before) `NOW`."""
    return RampStep(datetime.fromtimestamp((NOW + hours * HOUR) / 1e6, UTC), coverage)


def database_rules(engine: Engine) -> set[tuple[str, ...]]:
    """The triggers, views and functions of the database."""
    query = "select type, name, sql from sqlite_master where type in ('trigger', 'view')"
    if engine.dialect.name == "postgresql":
        query = (
            "select 'trigger', tgname, tgrelid::regclass::text from pg_trigger where not tgisinternal union all "
            "select 'function', proname, prosrc from pg_proc where pronamespace = 'public'::regnamespace union all "
            "select 'view', viewname, definition from pg_views where schemaname = 'public'"
        )
    with engine.connect() as connection:
        return {tuple(row) for row in connection.execute(text(query))}


class Threads:
    """The threads that started after this object was made."""

    def __init__(self) -> None:
        self._before = set(threading.enumerate())

    def have_ended(self) -> bool:
        """Whether all of them have ended."""
        return not set(threading.enumerate()) - self._before


def published(config: ExperimentConfig, version: int = 1) -> PublishedExperiment:
    """A running experiment with an override of the unit `tester`."""
    return PublishedExperiment(config, version, "running", (Override("tester", "treatment", 2**60),))


_ramps = st.datetimes(
    datetime(1, 1, 2),
    datetime(9999, 12, 30),
    timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30))]),
).map(lambda at: (RampStep(at, 5_000),))


@st.composite
def configs(draw: st.DrawFn) -> ExperimentConfig:
    """Any valid config."""
    cuts = sorted(draw(st.sets(st.integers(1, 9_999), min_size=1, max_size=5)))
    weights = [end - start for start, end in zip([0, *cuts], [*cuts, 10_000], strict=True)]
    arms = tuple(Arm(f"arm-{i}", weight) for i, weight in enumerate(weights))
    layer = draw(st.none() | st.builds(LayerRange, st.just("home"), st.integers(0, 4_999), st.integers(5_000, 10_000)))
    return ExperimentConfig(
        key="any",
        salt=draw(st.from_regex(r"[A-Za-z0-9._/-]{1,20}", fullmatch=True)),
        coverage=draw(st.integers(0, 5_000)),
        arms=arms,
        control=draw(st.sampled_from(arms)).key,
        description=draw(st.text(st.characters(exclude_categories=["Cs"]))),
        hash_version=draw(st.sampled_from(["sha256", "gb2"])),
        layer=layer,
        holdouts=draw(st.sampled_from([(), (Holdout("q", 500, "global"), Holdout("r", 1))])),
        prerequisites=draw(st.sampled_from([(), (Prerequisite("other", ("a", "b")),)])),
        targeting=draw(st.sampled_from(["", 'country == "DE"'])),
        record=draw(st.sampled_from([(), ("country", "age")])),
        ramp=draw(st.just(()) | _ramps),
    )


NOON = datetime(2026, 12, 1, 12, tzinfo=UTC)
RANKING_FIELDS: dict[str, Any] = {
    "key": "ranking",
    "salt": "ranking-1",
    "coverage": 2_000,
    "arms": (Arm("control", 5_000), Arm("treatment", 5_000)),
    "control": "control",
}
"""Arguments of a valid config."""

RANKING_YAML = """
key: ranking
salt: ranking-1
coverage: 2000
arms:
  - {key: control, weight: 5000}
  - {key: treatment, weight: 5000}
control: control
layer: {key: home, start: 0, end: 5000}
surfaces: [user, image]
metrics:
  - {key: gmv_per_user, role: goal}
"""
"""The file of a config with these fields, a layer, surfaces and a metric."""

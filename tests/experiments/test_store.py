"""The life cycle, what the database itself forbids, and the schema's version."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import IntegrityError

from experiments.config import Arm, ExperimentConfig, ExperimentState, LayerRange
from experiments.engine import writing
from experiments.errors import ConfigError, ConflictError, SchemaError, TransitionError, UnknownExperimentError
from experiments.store import ExperimentStore
from experiments.tables import REVISION, REVISION_TABLE

WHO: dict[str, str] = {"actor": "ada", "reason": "test"}


def start(store: ExperimentStore, config: ExperimentConfig) -> None:
    store.create_experiment(config.key, actor="ada")
    store.publish(config, actor="ada")
    store.transition(config.key, "running", **WHO)


def execute(store: ExperimentStore, statement: str) -> None:
    with writing(store.engine) as connection:
        connection.execute(text(statement))


def test_the_transitions_record_the_whole_life_cycle(store: ExperimentStore, config: ExperimentConfig) -> None:
    start(store, config)
    for state in ("paused", "running", "stopped"):
        store.transition(config.key, state, **WHO)
        assert [published.state for published in store.load()] == [state]
    store.transition(config.key, "decided", outcome="ship", **WHO)
    assert store.load() == []
    history = store.history(config.key)
    assert [row.state for row in history] == ["draft", "running", "paused", "running", "stopped", "decided"]
    assert [row.sequence for row in history] == [1, 2, 3, 4, 5, 6]
    assert (history[-1].outcome, history[-1].actor, history[-1].version) == ("ship", "ada", 1)


@pytest.mark.parametrize(
    ("path", "state"),
    [
        ([], "running"),  # a draft without a config
        (["publish"], "paused"),
        (["publish"], "stopped"),
        (["publish", "running"], "running"),
        (["publish", "running"], "draft"),
        (["publish", "running"], "decided"),
        (["publish", "running", "stopped"], "running"),
    ],
)
def test_a_step_outside_the_life_cycle_is_refused_and_leaves_no_trace(
    store: ExperimentStore, config: ExperimentConfig, path: list[Any], state: ExperimentState
) -> None:
    store.create_experiment(config.key, actor="ada")
    for step in path:
        if step == "publish":
            store.publish(config, actor="ada")
        else:
            store.transition(config.key, step, **WHO)
    before = store.history(config.key)
    with pytest.raises((TransitionError, UnknownExperimentError)):
        store.transition(config.key, state, **WHO)
    assert store.history(config.key) == before


def test_an_outcome_is_given_exactly_when_decided(store: ExperimentStore, config: ExperimentConfig) -> None:
    start(store, config)
    with pytest.raises(TransitionError, match="outcome"):
        store.transition(config.key, "stopped", outcome="ship", **WHO)
    store.transition(config.key, "stopped", **WHO)
    with pytest.raises(TransitionError, match="outcome"):
        store.transition(config.key, "decided", **WHO)


def test_an_act_without_an_actor_is_refused(store: ExperimentStore, config: ExperimentConfig) -> None:
    with pytest.raises(TransitionError, match="actor is empty"):
        store.create_experiment(config.key, actor="")
    with pytest.raises(UnknownExperimentError):
        store.history(config.key)


def test_unknown_and_taken_keys_are_named(store: ExperimentStore, config: ExperimentConfig) -> None:
    with pytest.raises(UnknownExperimentError, match="'ranking'"):
        store.publish(config, actor="ada")
    store.create_experiment(config.key, actor="ada")
    with pytest.raises(ConflictError, match="exists already"):
        store.create_experiment(config.key, actor="ada")


def test_publishing_the_same_config_twice_is_one_version(store: ExperimentStore, config: ExperimentConfig) -> None:
    store.create_experiment(config.key, actor="ada")
    assert [store.publish(config, actor="ada") for _ in range(2)] == [1, 1]
    assert store.publish(msgspec.structs.replace(config, coverage=5), actor="ada") == 2
    assert store.publish(config, actor="ada") == 3


def test_a_draft_starts_with_its_latest_version(store: ExperimentStore, config: ExperimentConfig) -> None:
    store.create_experiment(config.key, actor="ada")
    store.publish(config, actor="ada")
    latest = msgspec.structs.replace(config, arms=(Arm("control", 1_000), Arm("treatment", 9_000)))
    store.publish(latest, actor="ada")
    store.transition(config.key, "running", **WHO)
    (published,) = store.load()
    assert (published.config, published.version) == (latest, 2)


def test_raising_the_coverage_of_a_live_experiment_is_in_force_at_once(
    store: ExperimentStore, config: ExperimentConfig
) -> None:
    narrow = msgspec.structs.replace(config, coverage=100)
    start(store, narrow)
    store.transition(config.key, "paused", **WHO)
    assert store.publish(config, actor="bob", reason="ramp") == 2
    (published,) = store.load()
    assert (published.config.coverage, published.version, published.state) == (10_000, 2, "paused")
    assert (store.history(config.key)[-1].actor, store.history(config.key)[-1].reason) == ("bob", "ramp")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"coverage": 9_999}, "coverage lowered from 10000 to 9999"),
        ({"salt": "ranking-2"}, "salt changed"),
        ({"arms": (Arm("control", 6_000), Arm("treatment", 4_000))}, "arms changed"),
        ({"control": "treatment"}, "control changed"),
        ({"layer": LayerRange("home", 0, 5_000)}, "layer changed"),
        ({"unit_kind": "session"}, "unit_kind changed"),
    ],
)
def test_an_edit_that_moves_units_is_refused_while_live(
    store: ExperimentStore, config: ExperimentConfig, change: dict[str, Any], message: str
) -> None:
    start(store, config)
    with pytest.raises(ConfigError, match=message):
        store.publish(msgspec.structs.replace(config, **change), actor="ada")
    assert [published.version for published in store.load()] == [1]


def test_nothing_is_published_once_stopped(store: ExperimentStore, config: ExperimentConfig) -> None:
    start(store, config)
    store.transition(config.key, "stopped", **WHO)
    with pytest.raises(TransitionError, match="begin a new phase with a new salt"):
        store.publish(msgspec.structs.replace(config, description="again"), actor="ada")


def test_the_salt_of_another_experiment_is_refused(store: ExperimentStore, config: ExperimentConfig) -> None:
    """Restarting under a new key with the old salt would carry the old arms over."""
    start(store, config)
    store.transition(config.key, "stopped", **WHO)
    store.create_experiment("again", actor="ada")
    with pytest.raises(ConflictError, match="is that of experiment 'ranking'"):
        store.publish(msgspec.structs.replace(config, key="again"), actor="ada")


def test_a_layer_range_is_held_while_live_and_free_after(store: ExperimentStore, config: ExperimentConfig) -> None:
    for layer in ("home", "search"):
        store.create_layer(layer, **WHO)
    start(store, msgspec.structs.replace(config, layer=LayerRange("home", 0, 5_001)))
    overlapping = msgspec.structs.replace(config, key="two", salt="two-1", layer=LayerRange("home", 5_000, 10_000))
    store.create_experiment("two", actor="ada")
    store.publish(overlapping, actor="ada")
    with pytest.raises(ConflictError, match=r"'ranking' is live on \[0, 5001\)"):
        store.transition("two", "running", **WHO)
    start(store, msgspec.structs.replace(overlapping, key="three", salt="three-1", layer=LayerRange("search", 0, 9)))
    start(
        store, msgspec.structs.replace(overlapping, key="four", salt="four-1", layer=LayerRange("home", 5_001, 9_999))
    )
    store.transition("ranking", "paused", **WHO)
    with pytest.raises(ConflictError, match="is live on"):
        store.transition("two", "running", **WHO)
    store.transition("ranking", "stopped", **WHO)
    with pytest.raises(ConflictError, match="'four' is live on"):
        store.transition("two", "running", **WHO)
    store.transition("four", "stopped", **WHO)
    assert store.transition("two", "running", **WHO).state == "running"


@pytest.mark.parametrize(
    "statement",
    [
        "update experiment_version set config = '{}'",
        "delete from experiment_version",
        "insert or replace into experiment_version select * from experiment_version",
        "update transition set state = 'paused'",
        "delete from transition",
        "insert or replace into transition select * from transition",
        "update audit set actor = 'x'",
        "delete from audit",
        "insert or replace into audit select * from audit",
    ],
)
def test_the_database_refuses_to_change_or_delete_a_record(
    store: ExperimentStore, config: ExperimentConfig, statement: str
) -> None:
    start(store, config)
    before = store.history(config.key), store.load()
    with pytest.raises(IntegrityError, match="append-only"):
        execute(store, statement)
    assert (store.history(config.key), store.load()) == before


@pytest.mark.parametrize(
    ("statement", "rule"),
    [
        (
            "insert into experiment_version select experiment, 2, replace(config, '5000', '5001'), sha256, salt, 1, "
            "'x', 1 from experiment_version",
            "must sum to 10000",
        ),
        ("insert into transition values ('ranking', 3, 'asleep', 1, null, 1, 'x', '', null)", "no such transition"),
        ("insert into transition values ('ranking', 3, 'decided', 1, 'ship', 1, 'x', '', null)", "no such transition"),
        ("insert into transition values ('ranking', 9, 'paused', 1, null, 1, 'x', '', null)", "no such transition"),
        ("insert into transition values ('ranking', 3, 'paused', 1, 'ship', 1, 'x', '', null)", "outcome_when_decided"),
        ("insert into transition values ('ranking', 3, 'paused', 9, null, 1, 'x', '', null)", "FOREIGN KEY"),
        (
            "insert into transition values ('ranking', 3, 'paused', null, null, 1, 'x', '', null)",
            "version_unless_draft",
        ),
        ("update experiment set phase = 3", "the phase must grow by one"),
        ("insert into audit values (99, 1, '', 'a', 's', '', '{}')", "CHECK"),
        ("insert into exposure values ('e', 'none', 1, 'control', 'u', 1, 1, '{}')", "FOREIGN KEY"),
        ("insert into event values ('e', 'bought', 'u', 1, 'p', null, null, 1)", "kind_known"),
        ("insert into order_event values ('e', 'refunded', 'o', 'u', 1, null, 5, 'EUR', 1)", "sign"),
        ("insert into order_event values ('e', 'placed', 'o', 'u', 1, null, -5, 'EUR', 1)", "sign"),
        ("delete from experiment", "FOREIGN KEY"),
    ],
)
def test_the_database_refuses_invalid_rows(
    store: ExperimentStore, config: ExperimentConfig, statement: str, rule: str
) -> None:
    start(store, config)
    with pytest.raises(IntegrityError, match=rule):
        execute(store, statement)


def test_a_stored_config_that_was_tampered_with_is_not_served(store: ExperimentStore, config: ExperimentConfig) -> None:
    start(store, config)
    execute(store, "drop trigger experiment_version_no_update")
    execute(store, "update experiment_version set config = replace(config, '10000', '100')")
    with pytest.raises(ConfigError, match="SHA-256 differs"):
        store.load()


def test_a_second_create_all_keeps_the_rows(store: ExperimentStore, config: ExperimentConfig) -> None:
    start(store, config)
    store.create_all()
    store.check_schema()
    assert [published.config for published in store.load()] == [config]


@pytest.mark.parametrize(
    ("revision", "remedy"), [("9999", "upgrade this program"), ("0000", "run `sagelift experiment migrate`")]
)
def test_a_database_of_another_revision_is_refused(store: ExperimentStore, revision: str, remedy: str) -> None:
    execute(store, f"update {REVISION_TABLE} set version_num = '{revision}'")
    for check in (store.check_schema, store.create_all):
        with pytest.raises(SchemaError, match=f"revision {revision}, this program needs {REVISION}: {remedy}"):
            check()


def test_a_database_without_tables_is_named(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'empty.db'}")
    with pytest.raises(SchemaError, match=r"empty\.db has no experiment tables"):
        ExperimentStore(engine).check_schema()
    engine.dispose()


def test_sqlite_runs_with_the_settings_of_a_database_in_use(store: ExperimentStore) -> None:
    with store.engine.connect() as connection:
        result = {
            name: connection.execute(text(f"pragma {name}")).scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    assert result == {"journal_mode": "wal", "synchronous": 1, "foreign_keys": 1}

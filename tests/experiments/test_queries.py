"""Reads of the experiment database return plain records, sorted as their docstrings say."""

from typing import Any

import pytest
from sqlalchemy import text

from experiments import queries
from experiments.config import ExperimentConfig, LayerRange, Override
from experiments.engine import writing
from experiments.errors import ConfigError, UnknownExperimentError
from experiments.metrics import definitions
from experiments.store import ExperimentStore
from tests.experiments.builders import HOUR, WHO, Clock, changed, start_live


def read(store: ExperimentStore, query: Any, *arguments: Any, **options: Any) -> Any:
    with store.engine.begin() as connection:
        return query(connection, *arguments, **options)


def test_an_unknown_experiment_has_an_empty_history_and_no_last_transition(store: ExperimentStore) -> None:
    assert read(store, queries.history, "ranking") == []
    assert read(store, queries.newest, "ranking") is None
    assert read(store, queries.versions, "ranking") == []
    with pytest.raises(UnknownExperimentError, match="there is no experiment 'ranking'"):
        read(store, queries.last, "ranking")


def test_a_draft_without_a_config_has_a_state_and_no_version(store: ExperimentStore) -> None:
    store.create_experiment("ranking", actor="ada")
    assert read(store, queries.last, "ranking").state == "draft"
    with pytest.raises(UnknownExperimentError, match="nothing is published for experiment 'ranking'"):
        read(store, queries.latest_version, "ranking")


def test_every_version_keeps_the_config_that_was_published(store: ExperimentStore, config: ExperimentConfig) -> None:
    narrow = changed(config, coverage=100)
    start_live(store, narrow)
    store.publish(config, actor="ada")
    assert [version.config for version in read(store, queries.versions, config.key)] == [narrow, config]
    assert read(store, queries.config, config.key, 1) == narrow
    assert read(store, queries.newest, config.key).version == read(store, queries.latest_version, config.key) == 2
    with pytest.raises(UnknownExperimentError, match="has no version 3"):
        read(store, queries.version, config.key, 3)


def test_a_config_that_was_changed_in_the_database_is_refused(store: ExperimentStore, config: ExperimentConfig) -> None:
    store.create_experiment(config.key, actor="ada")
    store.publish(config, actor="ada")
    with writing(store.engine) as connection:
        for name in connection.scalars(text("select name from sqlite_master where type = 'trigger'")).all():
            connection.execute(text(f'drop trigger "{name}"'))
        connection.execute(text("update experiment_version set config = replace(config, '10000', '9000')"))
    with pytest.raises(ConfigError, match="version 1 of experiment 'ranking' is not the text that was published"):
        read(store, queries.config, config.key, 1)


def test_only_overrides_that_have_not_expired_are_loaded(
    store: ExperimentStore, config: ExperimentConfig, clock: Clock
) -> None:
    start_live(store, config)
    store.force_arm(config.key, Override("early", "treatment", clock.now + HOUR), **WHO)
    store.force_arm(config.key, Override("late", "control", clock.now + 2 * HOUR), **WHO)
    (published,) = read(store, queries.load, ("running",), clock.now + HOUR)
    assert [override.unit for override in published.overrides] == ["late"]
    assert read(store, queries.load, ("paused",), clock.now) == []


def test_latest_configs_leave_out_decided_experiments(store: ExperimentStore, config: ExperimentConfig) -> None:
    for key in ("first", "second"):
        start_live(store, changed(config, key=key, salt=key))
    store.stop("first", **WHO)
    assert set(read(store, queries.latest_configs)) == {"first", "second"}
    store.decide("first", "ship", **WHO)
    assert set(read(store, queries.latest_configs)) == {"second"}
    assert [(row.key, row.state) for row in read(store, queries.summaries)] == [
        ("first", "decided"),
        ("second", "running"),
    ]


def test_a_layer_lists_the_parts_that_live_experiments_hold_and_the_free_parts(
    store: ExperimentStore, config: ExperimentConfig, clock: Clock
) -> None:
    store.create_layer("home", **WHO)
    start_live(store, changed(config, coverage=10_000, layer=LayerRange("home", 2_000, 6_000)))
    (layer,) = read(store, queries.layers, clock.now)
    assert [(part.start, part.end) for part in layer.held] == [(2_000, 6_000)]
    assert list(layer.free) == [(0, 2_000), (6_000, 10_000)]


def test_metrics_are_the_newest_versions_sorted_by_key(store: ExperimentStore) -> None:
    entry = {"owner": "pricing", "tier": 1, "kind": "mean", "column": "gmv_net"}
    store.publish_metrics(definitions([{**entry, "name": "b"}, {**entry, "name": "a"}]), actor="ada")
    store.publish_metrics(definitions([{**entry, "name": "b", "owner": "ranking"}]), actor="ada")
    assert [(row.key, row.version, row.owner) for row in read(store, queries.metrics)] == [
        ("a", 1, "pricing"),
        ("b", 2, "ranking"),
    ]


def test_the_audit_log_is_read_backwards_in_pages(store: ExperimentStore, config: ExperimentConfig) -> None:
    start_live(store, config)
    newest = read(store, queries.audit, None, None, 2)
    rest = read(store, queries.audit, config.key, newest[-1].id, 10)
    ids = [entry.id for entry in [*newest, *rest]]
    assert ids == sorted(ids, reverse=True)
    assert len(ids) == len(read(store, queries.audit, None, None, 100)) > 2
    assert read(store, queries.audit, "another", None, 10) == []


def test_the_schedule_is_sorted_by_time_and_can_leave_out_commands_with_a_result(
    store: ExperimentStore, config: ExperimentConfig, clock: Clock
) -> None:
    start_live(store, config)
    later = store.schedule(config.key, "stop", clock.now + 2 * HOUR, **WHO)
    sooner = store.schedule(config.key, "pause", clock.now + HOUR, **WHO)
    assert [command.action for command in read(store, queries.schedule)] == ["pause", "stop"]
    store.cancel(sooner, **WHO)
    assert [command.id for command in read(store, queries.schedule, config.key, pending=True)] == [later]
    assert read(store, queries.schedule, "another") == []

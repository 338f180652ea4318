"""Layers and metrics are written in the caller's transaction, each with an audit entry."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Connection

from experiments import queries
from experiments.audit import AuditLog
from experiments.engine import exclusive
from experiments.errors import ConfigError, ConflictError
from experiments.metrics import MetricDefinition
from experiments.shared_definitions import create_layer, publish_metrics
from experiments.store import ExperimentStore
from tests.experiments.builders import NOW


@pytest.fixture
def connection(store: ExperimentStore) -> Iterator[Connection]:
    with exclusive(store.engine) as connection:
        yield connection


@pytest.fixture
def audit(connection: Connection) -> AuditLog:
    return AuditLog(connection, NOW, "ada", "test")


def metric(key: str, column: str = "gmv") -> MetricDefinition:
    definition = {"name": key, "owner": "pricing", "tier": 1, "kind": "mean", "column": column}
    return MetricDefinition(key, "pricing", 1, definition)


def actions(connection: Connection) -> list[tuple[str, str]]:
    return [(entry.action, entry.subject) for entry in reversed(queries.audit(connection, None, None, 10))]


def test_a_layer_is_created_once(connection: Connection, audit: AuditLog) -> None:
    create_layer(connection, audit, "home", "the front page")
    (layer,) = queries.layers(connection, NOW)
    assert (layer.key, layer.description, layer.created_by) == ("home", "the front page", "ada")
    with pytest.raises(ConflictError, match="layer 'home' exists already"):
        create_layer(connection, audit, "home", "another page")
    assert actions(connection) == [("create_layer", "home")]


@pytest.mark.parametrize(("key", "description"), [("Home page", ""), ("home", "a\0b")])
def test_a_layer_with_a_key_or_a_description_that_cannot_be_stored_is_refused(
    connection: Connection, audit: AuditLog, key: str, description: str
) -> None:
    with pytest.raises(ConfigError):
        create_layer(connection, audit, key, description)
    assert queries.layer_keys(connection) == actions(connection) == []


def test_a_changed_metric_is_a_new_version_and_an_unchanged_one_keeps_its_version(
    connection: Connection, audit: AuditLog
) -> None:
    assert publish_metrics(connection, audit, [metric("gmv"), metric("ctr")]) == {"gmv": 1, "ctr": 1}
    assert publish_metrics(connection, audit, [metric("gmv", "gmv_net"), metric("ctr")]) == {"gmv": 2, "ctr": 1}
    assert actions(connection) == [("publish_metric", "gmv"), ("publish_metric", "ctr"), ("publish_metric", "gmv")]
    assert {row.key: row.definition["column"] for row in queries.metrics(connection)} == {
        "gmv": "gmv_net",
        "ctr": "gmv",
    }

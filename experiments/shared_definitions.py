"""Writes of what experiments share: layers and published metrics, in the caller's exclusive transaction."""

from collections.abc import Iterable

from sqlalchemy import Connection, insert

from experiments import queries, tables
from experiments.audit import AuditLog, check_text
from experiments.config import check_key
from experiments.errors import ConflictError
from experiments.metrics import MetricDefinition


def create_layer(connection: Connection, audit: AuditLog, key: str, description: str) -> None:
    """Create a layer; see `ExperimentStore.create_layer`."""
    check_key("layer", key)
    check_text("the description", description)
    if key in queries.layer_keys(connection):
        raise ConflictError(f"layer {key!r} exists already; choose another key, or use it.")
    connection.execute(
        insert(tables.layer).values(key=key, description=description, created_at=audit.now, created_by=audit.actor)
    )
    audit.add("create_layer", key, {"description": description})


def publish_metrics(connection: Connection, audit: AuditLog, definitions: Iterable[MetricDefinition]) -> dict[str, int]:
    """Freeze each metric as its next version; see `ExperimentStore.publish_metrics`."""
    published = {metric.key: metric for metric in queries.metrics(connection)}
    versions = {}
    for definition in definitions:
        latest = published.get(definition.key)
        if latest is not None and latest.sha256 == definition.sha256():
            versions[definition.key] = latest.version
            continue
        versions[definition.key] = number = 1 if latest is None else latest.version + 1
        connection.execute(
            insert(tables.metric).values(
                key=definition.key,
                version=number,
                definition=definition.canonical_json().decode("utf-8"),
                sha256=definition.sha256(),
                owner=definition.owner,
                tier=definition.tier,
                created_at=audit.now,
                created_by=audit.actor,
            )
        )
        audit.add("publish_metric", definition.key, {"version": number, "sha256": definition.sha256()})
    return versions

"""Reads of the experiment database, inside the caller's transaction. The functions return plain `records`."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, RowMapping, func, select

from experiments import tables
from experiments.config import ExperimentConfig, ExperimentState, Override, PublishedExperiment
from experiments.config_parsing import from_json
from experiments.errors import ConfigError, UnknownExperimentError
from experiments.layers import Held, LayerSummary, free_parts
from experiments.lifecycle import LIVE
from experiments.metrics import MetricVersion
from experiments.records import AuditEntry, ExperimentSummary, Scheduled, Transition, Version


def history(connection: Connection, key: str) -> list[Transition]:
    """Return all transitions, oldest first; an empty list when the experiment does not exist."""
    table = tables.transition
    query = select(table).where(table.c.experiment == key).order_by(table.c.sequence)
    return [_transition(row) for row in connection.execute(query).mappings()]


def last(connection: Connection, key: str) -> Transition:
    """Return the last transition, which has the experiment's state.

    Raises:
        UnknownExperimentError: The experiment does not exist.
    """
    table = tables.transition
    query = select(table).where(table.c.experiment == key).order_by(table.c.sequence.desc()).limit(1)
    if (row := connection.execute(query).mappings().first()) is None:
        raise UnknownExperimentError(f"there is no experiment {key!r}; publish a config with this key first.")
    return _transition(row)


def phase(connection: Connection, key: str) -> int:
    """Return the phase of an experiment."""
    table = tables.experiment.c
    return int(connection.execute(select(table.phase).where(table.key == key)).scalar_one())


def latest_version(connection: Connection, key: str) -> int:
    """Return the number of the newest version.

    Raises:
        UnknownExperimentError: Nothing is published.
    """
    version = tables.experiment_version.c
    number = connection.execute(select(func.max(version.version)).where(version.experiment == key)).scalar()
    if number is None:
        raise UnknownExperimentError(f"nothing is published for experiment {key!r}; publish a config first.")
    return int(number)


def config(connection: Connection, key: str, number: int) -> ExperimentConfig:
    """Return the config of a version. Raises the same errors as `version`."""
    return version(connection, key, number).config


def version(connection: Connection, key: str, number: int) -> Version:
    """Return a version.

    Raises:
        UnknownExperimentError: The version does not exist.
        ConfigError: The stored config is not the text that was published.
    """
    table = tables.experiment_version
    query = select(table).where(table.c.experiment == key, table.c.version == number)
    if (row := connection.execute(query).mappings().first()) is None:
        raise UnknownExperimentError(f"experiment {key!r} has no version {number}.")
    return _version(row)


def newest(connection: Connection, key: str) -> Version | None:
    """Return the newest version; None when nothing is published. Raises ConfigError as `version` does."""
    table = tables.experiment_version
    query = select(table).where(table.c.experiment == key).order_by(table.c.version.desc()).limit(1)
    row = connection.execute(query).mappings().first()
    return None if row is None else _version(row)


def versions(connection: Connection, key: str) -> list[Version]:
    """Return all versions, oldest first. Raises ConfigError as `version` does."""
    table = tables.experiment_version
    query = select(table).where(table.c.experiment == key).order_by(table.c.version)
    return [_version(row) for row in connection.execute(query).mappings()]


def latest_configs(connection: Connection) -> dict[str, ExperimentConfig]:
    """Return the newest published config of each experiment that is neither decided nor archived, by key."""
    table = tables.experiment_version
    newest = select(table.c.experiment, func.max(table.c.version).label("version")).group_by(table.c.experiment)
    last, latest = newest.subquery(), _last_transitions()
    query = (
        select(table)
        .join(last, (last.c.experiment == table.c.experiment) & (last.c.version == table.c.version))
        .join(latest, latest.c.experiment == table.c.experiment)
        .where(latest.c.state.not_in(("decided", "archived")))
    )
    return {row["experiment"]: _checked_config(row) for row in connection.execute(query).mappings()}


def load(connection: Connection, states: Sequence[ExperimentState], now: int) -> list[PublishedExperiment]:
    """Return the experiments in these states with the version in force, sorted by key.

    Args:
        connection: Connection with an open transaction.
        states: States to return.
        now: Time at which overrides must be in force, in microseconds UTC.
    """
    forced = overrides(connection, now)
    version = tables.experiment_version
    latest = _last_transitions()
    query = (
        select(version, latest.c.state)
        .join(latest, (latest.c.experiment == version.c.experiment) & (latest.c.version == version.c.version))
        .where(latest.c.state.in_(states))
        .order_by(version.c.experiment)
    )
    return [
        PublishedExperiment(
            _checked_config(row), int(row["version"]), row["state"], tuple(forced.get(row["experiment"], ()))
        )
        for row in connection.execute(query).mappings()
    ]


def overrides(connection: Connection, now: int) -> dict[str, list[Override]]:
    """Return the overrides that have not expired, by experiment."""
    table = tables.override
    query = select(table).where(table.c.expires_at > now).order_by(table.c.experiment, table.c.unit_id)
    by_experiment: dict[str, list[Override]] = {}
    for row in connection.execute(query):
        by_experiment.setdefault(row.experiment, []).append(Override(row.unit_id, row.arm, int(row.expires_at)))
    return by_experiment


def summaries(connection: Connection) -> list[ExperimentSummary]:
    """Return all experiments, sorted by key."""
    latest, experiment = _last_transitions(), tables.experiment
    query = (
        select(experiment.c.key, latest.c.state, latest.c.version, experiment.c.phase, latest.c.at.label("since"))
        .join(latest, latest.c.experiment == experiment.c.key)
        .order_by(experiment.c.key)
    )
    return [ExperimentSummary(**row) for row in connection.execute(query).mappings()]


def layer_keys(connection: Connection) -> list[str]:
    """Return the keys of all layers, sorted."""
    return list(connection.scalars(select(tables.layer.c.key).order_by(tables.layer.c.key)))


def layers(connection: Connection, now: int) -> list[LayerSummary]:
    """Return all layers and the parts that live experiments hold, sorted by key."""
    held: dict[str, list[Held]] = {}
    for published in load(connection, LIVE, now):
        if (part := published.config.layer) is not None:
            held.setdefault(part.key, []).append(Held(published.config.key, part.start, part.end))
    return [
        LayerSummary(
            **row,
            held=tuple(sorted(held.get(row["key"], ()), key=lambda part: part.start)),
            free=free_parts(held.get(row["key"], ())),
        )
        for row in connection.execute(select(tables.layer).order_by(tables.layer.c.key)).mappings()
    ]


def metrics(connection: Connection) -> list[MetricVersion]:
    """Return the newest version of each metric, sorted by key."""
    table = tables.metric
    newest = select(table.c.key, func.max(table.c.version).label("version")).group_by(table.c.key).subquery()
    query = (
        select(table)
        .join(newest, (newest.c.key == table.c.key) & (newest.c.version == table.c.version))
        .order_by(table.c.key)
    )
    return [
        MetricVersion(**{**row, "definition": msgspec.json.decode(row["definition"])})
        for row in connection.execute(query).mappings()
    ]


def audit(connection: Connection, subject: str | None, before: int | None, limit: int) -> list[AuditEntry]:
    """Return entries of the audit log, newest first.

    Args:
        connection: Connection with an open transaction.
        subject: Key or id that the entries are about; None for all.
        before: Id below which the entries start; None for the newest.
        limit: Maximum number of entries.
    """
    table = tables.audit
    query = select(table).order_by(table.c.id.desc()).limit(limit)
    if subject is not None:
        query = query.where(table.c.subject == subject)
    if before is not None:
        query = query.where(table.c.id < before)
    return [
        AuditEntry(**{**row, "detail": msgspec.json.decode(row["detail"])})
        for row in connection.execute(query).mappings()
    ]


def schedule(connection: Connection, key: str | None = None, *, pending: bool = False) -> list[Scheduled]:
    """Return scheduled commands, earliest first.

    Args:
        connection: Connection with an open transaction.
        key: Experiment; None for all.
        pending: Whether to return only commands without a result.
    """
    table, result = tables.scheduled, tables.scheduled_result
    query = (
        select(table, result.c.result, func.coalesce(result.c.detail, "").label("detail"))
        .join(result, result.c.id == table.c.id, isouter=True)
        .order_by(table.c.at, table.c.id)
    )
    if key is not None:
        query = query.where(table.c.experiment == key)
    if pending:
        query = query.where(result.c.id.is_(None))
    return [Scheduled(**row) for row in connection.execute(query).mappings()]


def _last_transitions() -> Any:
    table = tables.transition
    newest = select(table.c.experiment, func.max(table.c.sequence).label("sequence")).group_by(table.c.experiment)
    last = newest.subquery()
    joined = table.join(last, (last.c.experiment == table.c.experiment) & (last.c.sequence == table.c.sequence))
    return select(table).select_from(joined).subquery("latest")


def _transition(row: RowMapping) -> Transition:
    fields = {name: row[name] for name in Transition.__struct_fields__}
    fields["evidence"] = None if row["evidence"] is None else msgspec.json.decode(row["evidence"])
    return msgspec.convert(fields, Transition)


def _version(row: Mapping[Any, Any]) -> Version:
    fields = ("version", "phase", "sha256", "created_at", "created_by")
    return Version(**{name: row[name] for name in fields}, config=_checked_config(row))


def _checked_config(row: Mapping[Any, Any]) -> ExperimentConfig:
    # Hash the stored text and not the decoded config, which may have fields that a later program added.
    if hashlib.sha256(row["config"].encode("utf-8")).hexdigest() != row["sha256"]:
        raise ConfigError(
            f"version {row['version']} of experiment {row['experiment']!r} is not the text that was published "
            "(its SHA-256 differs): restore it from a backup."
        )
    return from_json(row["config"])

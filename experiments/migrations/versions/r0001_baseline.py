"""The schema of the experiment database: tables, views, and the triggers that guard them.

A revision imports nothing of this package: what it does to a database today is what it does in a year.
"""

from typing import NamedTuple

from alembic import op
from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Connection,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
)

revision = "0001"
down_revision = None

metadata = MetaData()


def _one_of(column: str, values: tuple[str, ...]) -> CheckConstraint:
    return CheckConstraint(f"{column} in ({', '.join(map(repr, values))})", name=f"{column}_known")


Table(
    "experiment",
    metadata,
    Column("key", Text, primary_key=True),
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("phase", Integer, nullable=False, server_default="1"),
)
Table(
    "layer",
    metadata,
    Column("key", Text, primary_key=True),
    Column("description", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", Text, CheckConstraint("created_by <> ''"), nullable=False),
)
Table(
    "metric",
    metadata,
    Column("key", Text, primary_key=True),
    Column("version", Integer, CheckConstraint("version >= 1"), primary_key=True, autoincrement=False),
    Column("definition", Text, nullable=False),
    Column("sha256", Text, CheckConstraint("length(sha256) = 64"), nullable=False),
    Column("owner", Text, CheckConstraint("owner <> ''"), nullable=False),
    Column("tier", Integer, CheckConstraint("tier between 1 and 3"), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", Text, CheckConstraint("created_by <> ''"), nullable=False),
)
Table(
    "experiment_version",
    metadata,
    Column("experiment", Text, ForeignKey("experiment.key"), primary_key=True),
    Column("version", Integer, CheckConstraint("version >= 1"), primary_key=True, autoincrement=False),
    Column("config", Text, nullable=False),
    Column("sha256", Text, CheckConstraint("length(sha256) = 64"), nullable=False),
    Column("salt", Text, nullable=False, index=True),
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("phase", Integer, nullable=False, server_default="1"),
)
Table(
    "transition",
    metadata,
    Column("experiment", Text, ForeignKey("experiment.key"), primary_key=True),
    Column("sequence", Integer, CheckConstraint("sequence >= 1"), primary_key=True, autoincrement=False),
    Column("state", Text, nullable=False),
    Column("version", Integer),
    Column("outcome", Text),
    Column("at", BigInteger, nullable=False),
    Column("actor", Text, CheckConstraint("actor <> ''"), nullable=False),
    Column("reason", Text, nullable=False),
    Column("evidence", Text),
    ForeignKeyConstraint(["experiment", "version"], ["experiment_version.experiment", "experiment_version.version"]),
    _one_of("state", ("draft", "in_review", "running", "paused", "stopped", "decided", "archived")),
    _one_of("outcome", ("ship", "roll_back", "inconclusive")),
    CheckConstraint("outcome is null or state in ('decided', 'archived')", name="outcome_when_decided"),
    CheckConstraint("state <> 'decided' or outcome is not null", name="decided_has_outcome"),
    CheckConstraint("version is not null or state in ('draft', 'archived')", name="version_unless_draft"),
)
Table(
    "audit",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("actor", Text, CheckConstraint("actor <> ''"), nullable=False),
    Column("action", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Index("audit_subject", "subject"),
)
Table(
    "scheduled",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("experiment", Text, ForeignKey("experiment.key"), nullable=False, index=True),
    Column("at", BigInteger, nullable=False),
    Column("action", Text, nullable=False),
    Column("coverage", Integer),
    Column("actor", Text, CheckConstraint("actor <> ''"), nullable=False),
    Column("reason", Text, nullable=False),
    _one_of("action", ("start", "pause", "ramp", "stop")),
    CheckConstraint("(action = 'ramp') = (coverage is not null)", name="coverage_when_ramp"),
    CheckConstraint("coverage between 0 and 10000", name="coverage_share"),
)
Table(
    "scheduled_result",
    metadata,
    Column("id", Integer, ForeignKey("scheduled.id"), primary_key=True, autoincrement=False),
    Column("at", BigInteger, nullable=False),
    Column("result", Text, nullable=False),
    Column("detail", Text, nullable=False),
    _one_of("result", ("done", "failed", "cancelled")),
)
Table(
    "api_key",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("sha256", Text, CheckConstraint("length(sha256) = 64"), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", Text, CheckConstraint("created_by <> ''"), nullable=False),
    _one_of("role", ("read", "assign", "edit", "admin")),
)
Table(
    "api_key_revocation",
    metadata,
    Column("id", Text, ForeignKey("api_key.id"), primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("actor", Text, CheckConstraint("actor <> ''"), nullable=False),
    Column("reason", Text, nullable=False),
)
Table(
    "override",
    metadata,
    Column("experiment", Text, ForeignKey("experiment.key"), primary_key=True),
    Column("unit_id", Text, primary_key=True),
    Column("arm", Text, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
)
Table(
    "unit_token",
    metadata,
    Column("lookup", Text, primary_key=True),
    Column("nonce", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
)
Table(
    "exposure",
    metadata,
    Column("event_id", Text, primary_key=True),
    Column("experiment", Text, nullable=False),
    Column("config_version", Integer, nullable=False),
    Column("arm", Text, nullable=False),
    Column("unit_id", Text, nullable=False),
    Column("event_time", BigInteger, nullable=False),
    Column("ingested_at", BigInteger, nullable=False),
    Column("attributes", Text, nullable=False, server_default="{}"),
    ForeignKeyConstraint(
        ["experiment", "config_version"], ["experiment_version.experiment", "experiment_version.version"]
    ),
    Index("exposure_experiment_unit", "experiment", "unit_id"),
)
Table(
    "first_exposure_by_phase",
    metadata,
    Column("experiment", Text, ForeignKey("experiment.key"), primary_key=True),
    Column("phase", Integer, primary_key=True, autoincrement=False),
    Column("unit_id", Text, primary_key=True),
    Column("arm", Text, nullable=False),
    Column("first_time", BigInteger, nullable=False),
    Column("attributes", Text, nullable=False, server_default="{}"),
    sqlite_with_rowid=False,
)
Table(
    "event",
    metadata,
    Column("event_id", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("unit_id", Text, nullable=False),
    Column("event_time", BigInteger, nullable=False),
    Column("product_id", Text, nullable=False),
    Column("surface", Text),
    Column("query", Text),
    Column("ingested_at", BigInteger, nullable=False),
    _one_of("kind", ("impression", "click", "save", "add_to_cart")),
    Index("event_unit_time", "unit_id", "event_time"),
)
Table(
    "order_event",
    metadata,
    Column("event_id", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("order_id", Text, nullable=False),
    Column("unit_id", Text, nullable=False),
    Column("event_time", BigInteger, nullable=False),
    Column("product_id", Text),
    Column("amount_minor", BigInteger, nullable=False),
    Column("currency", Text, CheckConstraint("length(currency) = 3"), nullable=False),
    Column("ingested_at", BigInteger, nullable=False),
    _one_of("kind", ("placed", "cancelled", "refunded", "charged_back")),
    CheckConstraint("(kind = 'placed' and amount_minor >= 0) or (kind <> 'placed' and amount_minor <= 0)", name="sign"),
    Index("order_event_unit_time", "unit_id", "event_time"),
)
Table(
    "sink_offset",
    metadata,
    Column("log", Text, primary_key=True),
    Column("topic", Text, primary_key=True),
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("next_offset", BigInteger, CheckConstraint("next_offset >= 0"), nullable=False),
)

# Append-only tables and their primary keys.
_APPEND_ONLY = {
    "experiment_version": ("experiment", "version"),
    "transition": ("experiment", "sequence"),
    "layer": ("key",),
    "metric": ("key", "version"),
    **dict.fromkeys(("audit", "scheduled", "scheduled_result", "api_key", "api_key_revocation"), ("id",)),
}

_FIRST_EXPOSURE = (
    "select f.experiment, f.unit_id, f.arm, f.first_time, f.attributes "
    "from first_exposure_by_phase f join experiment e on e.key = f.experiment and e.phase = f.phase"
)
# One row per unit and attribute. The value is text (a boolean is `true` or `false`), the same on both databases.
_FIRST_EXPOSURE_ATTRIBUTE = {
    "sqlite": (
        "select f.experiment, f.unit_id, j.key as name, "
        "case when j.type in ('true', 'false') then j.type else cast(j.value as text) end as value "
        "from first_exposure f, json_each(f.attributes) j"
    ),
    "postgresql": (
        "select f.experiment, f.unit_id, j.key as name, j.value as value "
        "from first_exposure f, jsonb_each_text(f.attributes::jsonb) j"
    ),
}

_STEPS = (
    *("draft>in_review", "draft>running", "draft>archived"),
    *("in_review>draft", "in_review>running", "in_review>archived"),
    # The same state again puts another version in force.
    *("running>running", "running>paused", "running>stopped"),
    *("paused>paused", "paused>running", "paused>stopped"),
    *("stopped>running", "stopped>decided", "decided>archived"),
)
_NO_SUCH_STEP = (
    "not (new.sequence = 1 and new.state = 'draft') and not exists (select 1 from transition p "
    "where p.experiment = new.experiment and p.sequence = new.sequence - 1 "
    f"and p.state || '>' || new.state in ({', '.join(map(repr, _STEPS))}) "
    # A stopped experiment runs again only in a new phase, which is a new version.
    "and (p.state <> 'stopped' or new.state <> 'running' or new.version > p.version))"
)
_SALT_IS_USED = (
    "exists (select 1 from experiment_version v where v.salt = new.salt "
    "and (v.experiment <> new.experiment or v.phase <> new.phase))"
)
# How each dialect reads a text and a number of the layer of the config in column {of}.config.
_LAYER_TEXT = {
    "sqlite": "json_extract({of}.config, '$.layer.{field}')",
    "postgresql": "({of}.config::jsonb->'layer'->>'{field}')",
}
_LAYER_NUMBER = {"sqlite": _LAYER_TEXT["sqlite"], "postgresql": _LAYER_TEXT["postgresql"] + "::int"}
_WEIGHTS = {
    "sqlite": "(select coalesce(sum(json_extract(value, '$.weight')), 0) from json_each(new.config, '$.arms'))",
    "postgresql": (
        "(select coalesce(sum((arm->>'weight')::int), 0) from jsonb_array_elements(new.config::jsonb->'arms') arm)"
    ),
}
_PHASE_JUMPS = "new.phase <> old.phase + 1"
_SALT_MESSAGE = "the salt was used by another experiment or phase"
_LAYER_MESSAGE = "the layer range is held by another live experiment"


def _layer_is_held(dialect: str) -> str:
    """Return the condition that another live experiment holds a part of the new one's layer range."""
    text, number = _LAYER_TEXT[dialect], _LAYER_NUMBER[dialect]
    own_key, held_key = text.format(of="own", field="key"), text.format(of="held", field="key")
    own_start, held_start = number.format(of="own", field="start"), number.format(of="held", field="start")
    own_end, held_end = number.format(of="own", field="end"), number.format(of="held", field="end")
    return (
        "new.state in ('running', 'paused') and exists (select 1 from experiment_version own "
        "join transition t on t.experiment <> own.experiment and t.state in ('running', 'paused') "
        "and t.sequence = (select max(sequence) from transition last where last.experiment = t.experiment) "
        "join experiment_version held on held.experiment = t.experiment and held.version = t.version "
        "where own.experiment = new.experiment and own.version = new.version "
        f"and {own_key} = {held_key} and {own_start} < {held_end} and {held_start} < {own_end})"
    )


class _Rule(NamedTuple):
    """A row that a trigger refuses: the condition on `new` (and `old`), and the message of the error."""

    name: str
    table: str
    forbidden: str
    message: str
    event: str = "insert"


def _rules(dialect: str) -> list[_Rule]:
    layer = _LAYER_TEXT[dialect].format(of="new", field="key")
    no_layer = f"{layer} is not null and not exists (select 1 from layer where key = {layer})"
    weights = f"{_WEIGHTS[dialect]} <> 10000"
    rules = [
        _Rule("experiment_version_weights", "experiment_version", weights, "the arms of a config must sum to 10000"),
        _Rule("experiment_version_salt", "experiment_version", _SALT_IS_USED, _SALT_MESSAGE),
        _Rule("experiment_version_layer", "experiment_version", no_layer, "the layer does not exist"),
        _Rule("transition_follows", "transition", _NO_SUCH_STEP, "the life cycle has no such transition"),
        _Rule("transition_layer", "transition", _layer_is_held(dialect), _LAYER_MESSAGE),
        _Rule("experiment_phase_grows", "experiment", _PHASE_JUMPS, "the phase must grow by one", "update of phase"),
    ]
    if dialect == "postgresql":  # SQLite has no SHA-256
        wrong = "encode(sha256(convert_to(new.config, 'UTF8')), 'hex') <> new.sha256"
        rules.append(
            _Rule("experiment_version_sha256", "experiment_version", wrong, "sha256 is not that of the config")
        )
    return rules


def _add_sqlite_triggers(connection: Connection) -> None:
    for table, key in _APPEND_ONLY.items():
        same = " and ".join(f"{column} = new.{column}" for column in key)
        # INSERT OR REPLACE deletes without firing a delete trigger, but it fires the insert trigger first.
        conditions = {"update": "", "delete": "", "insert": f"when exists (select 1 from {table} where {same})"}
        for action, when in conditions.items():
            connection.exec_driver_sql(
                f"create trigger {table}_no_{action} before {action} on {table} {when} "
                f"begin select raise(abort, '{table} is append-only'); end"
            )
    for rule in _rules("sqlite"):
        connection.exec_driver_sql(
            f"create trigger {rule.name} before {rule.event} on {rule.table} when {rule.forbidden} "
            f"begin select raise(abort, '{rule.message}'); end"
        )


def _add_postgresql_triggers(connection: Connection) -> None:
    connection.exec_driver_sql(
        "create function refuse_change() returns trigger language plpgsql as "
        "$$ begin raise exception using message = tg_table_name || ' is append-only'; end $$"
    )
    for table in _APPEND_ONLY:
        for name, actions, each in (("change", "update or delete", "row"), ("truncate", "truncate", "statement")):
            connection.exec_driver_sql(
                f"create trigger {table}_no_{name} before {actions} on {table} "
                f"for each {each} execute function refuse_change()"
            )
    for rule in _rules("postgresql"):
        connection.exec_driver_sql(
            f"create function {rule.name}() returns trigger language plpgsql as $$ begin "
            f"if {rule.forbidden} then raise exception '{rule.message}'; end if; return new; end $$"
        )
        connection.exec_driver_sql(
            f"create trigger {rule.name} before {rule.event} on {rule.table} "
            f"for each row execute function {rule.name}()"
        )


def upgrade() -> None:
    """Create tables, views and triggers."""
    connection = op.get_bind()
    dialect = connection.dialect.name
    metadata.create_all(connection, checkfirst=False)
    connection.exec_driver_sql(f"create view first_exposure as {_FIRST_EXPOSURE}")
    connection.exec_driver_sql(f"create view first_exposure_attribute as {_FIRST_EXPOSURE_ATTRIBUTE[dialect]}")
    if dialect == "sqlite":
        _add_sqlite_triggers(connection)
    else:
        _add_postgresql_triggers(connection)


def downgrade() -> None:
    """Drop everything that `upgrade` created. Triggers go with their tables."""
    connection = op.get_bind()
    for view in ("first_exposure_attribute", "first_exposure"):
        connection.exec_driver_sql(f"drop view {view}")
    metadata.drop_all(connection, checkfirst=False)
    if connection.dialect.name == "postgresql":
        for function in ("refuse_change", *(rule.name for rule in _rules("postgresql"))):
            connection.exec_driver_sql(f"drop function {function}()")

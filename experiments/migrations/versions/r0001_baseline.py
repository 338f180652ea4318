"""Experiments, versions, transitions, events: the first schema.

A database that was made before there were migrations has a table `schema_version` with 2 in it, and is this one.
"""

from alembic import op
from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    insert,
)

revision = "0001"
down_revision = None

metadata = MetaData()


def _one_of(column: str, *values: str) -> CheckConstraint:
    return CheckConstraint(f"{column} in ({', '.join(map(repr, values))})", name=f"{column}_known")


schema_version = Table("schema_version", metadata, Column("version", Integer, primary_key=True, autoincrement=False))
Table(
    "experiment",
    metadata,
    Column("key", Text, primary_key=True),
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
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
    ForeignKeyConstraint(["experiment", "version"], ["experiment_version.experiment", "experiment_version.version"]),
    _one_of("state", "draft", "running", "paused", "stopped", "decided"),
    _one_of("outcome", "ship", "roll_back", "inconclusive"),
    CheckConstraint("(state = 'decided') = (outcome is not null)", name="outcome_when_decided"),
    CheckConstraint("(state = 'draft') = (version is null)", name="version_unless_draft"),
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
    ForeignKeyConstraint(
        ["experiment", "config_version"], ["experiment_version.experiment", "experiment_version.version"]
    ),
    Index("exposure_experiment_unit", "experiment", "unit_id"),
)
Table(
    "first_exposure",
    metadata,
    Column("experiment", Text, ForeignKey("experiment.key"), primary_key=True),
    Column("unit_id", Text, primary_key=True),
    Column("arm", Text, nullable=False),
    Column("first_time", BigInteger, nullable=False),
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
    _one_of("kind", "impression", "click", "save", "add_to_cart"),
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
    _one_of("kind", "placed", "cancelled", "refunded", "charged_back"),
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

_SQLITE = (
    "create trigger experiment_version_weights before insert on experiment_version "
    "when (select coalesce(sum(json_extract(value, '$.weight')), 0) from json_each(new.config, '$.arms')) <> 10000 "
    "begin select raise(abort, 'the arms of a config must sum to 10000'); end",
    *(
        f"create trigger {table}_no_{action} before {action} on {table} {when} "
        f"begin select raise(abort, '{table} is append-only'); end"
        for table, key in (("experiment_version", "version"), ("transition", "sequence"))
        for action, when in (
            ("update", ""),
            ("delete", ""),
            # INSERT OR REPLACE deletes without firing a delete trigger, but fires this one first.
            (
                "insert",
                f"when exists (select 1 from {table} where experiment = new.experiment and {key} = new.{key})",
            ),
        )
    ),
)
_POSTGRESQL = (
    "create function refuse_change() returns trigger language plpgsql as "
    "$$ begin raise exception using message = tg_table_name || ' is append-only'; end $$",
    "create function check_weights() returns trigger language plpgsql as $$ begin "
    "if (select coalesce(sum((arm->>'weight')::int), 0) from jsonb_array_elements(new.config::jsonb->'arms') arm) "
    "<> 10000 then raise exception 'the arms of a config must sum to 10000'; end if; return new; end $$",
    "create trigger experiment_version_weights before insert on experiment_version "
    "for each row execute function check_weights()",
    *(
        f"create trigger {table}_no_{name} before {actions} on {table} for each {each} execute function refuse_change()"
        for table in ("experiment_version", "transition")
        for name, actions, each in (("change", "update or delete", "row"), ("truncate", "truncate", "statement"))
    ),
)


def upgrade() -> None:
    connection = op.get_bind()
    metadata.create_all(connection, checkfirst=False)
    connection.execute(insert(schema_version).values(version=2))
    for statement in _SQLITE if connection.dialect.name == "sqlite" else _POSTGRESQL:
        connection.exec_driver_sql(statement)


def downgrade() -> None:
    connection = op.get_bind()
    metadata.drop_all(connection, checkfirst=False)
    if connection.dialect.name == "postgresql":
        for function in ("check_weights", "refuse_change"):
            connection.exec_driver_sql(f"drop function {function}()")

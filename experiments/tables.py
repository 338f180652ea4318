"""The tables, and what the database itself forbids (SQLite and PostgreSQL).

Times are BIGINT microseconds since the Unix epoch, UTC: the same in every engine. Versions and transitions
are records: triggers refuse UPDATE and DELETE (on PostgreSQL TRUNCATE, on SQLite also the delete that hides
in INSERT OR REPLACE), and a config whose arms do not sum to 10,000. `exposure` to `order_event` are what
analysis/ reads.
"""

from typing import Final

from sqlalchemy import (
    DDL,
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
    event,
)

from experiments.lifecycle import FOLLOWERS

SCHEMA_VERSION: Final = 2
MULTIPLE_ARMS: Final = "__multiple__"
"""The arm of a unit that was seen in two; no config can name an arm so."""

metadata = MetaData()


def _one_of(column: str, values: tuple[str, ...]) -> CheckConstraint:
    return CheckConstraint(f"{column} in ({', '.join(map(repr, values))})", name=f"{column}_known")


schema_version = Table("schema_version", metadata, Column("version", Integer, primary_key=True, autoincrement=False))

experiment = Table(
    "experiment",
    metadata,
    Column("key", Text, primary_key=True),
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
)

experiment_version = Table(
    "experiment_version",
    metadata,
    Column("experiment", Text, ForeignKey("experiment.key"), primary_key=True),
    Column("version", Integer, CheckConstraint("version >= 1"), primary_key=True, autoincrement=False),
    Column("config", Text, nullable=False, doc="canonical JSON"),
    Column("sha256", Text, CheckConstraint("length(sha256) = 64"), nullable=False, doc="of `config`, hexadecimal"),
    Column("salt", Text, nullable=False, index=True, doc="the config's, to find a second experiment that uses it"),
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
)

transition = Table(
    "transition",
    metadata,
    Column("experiment", Text, ForeignKey("experiment.key"), primary_key=True),
    # The primary key lets one of two writers that saw the same last row through, and refuses the other.
    Column("sequence", Integer, CheckConstraint("sequence >= 1"), primary_key=True, autoincrement=False),
    Column("state", Text, nullable=False),
    Column("version", Integer, doc="the version that is in force from here on; NULL for a draft"),
    Column("outcome", Text, doc="of a decided experiment"),
    Column("at", BigInteger, nullable=False),
    Column("actor", Text, CheckConstraint("actor <> ''"), nullable=False),
    Column("reason", Text, nullable=False),
    ForeignKeyConstraint(["experiment", "version"], ["experiment_version.experiment", "experiment_version.version"]),
    _one_of("state", tuple(FOLLOWERS)),
    _one_of("outcome", ("ship", "roll_back", "inconclusive")),
    CheckConstraint("(state = 'decided') = (outcome is not null)", name="outcome_when_decided"),
    CheckConstraint("(state = 'draft') = (version is null)", name="version_unless_draft"),
)

exposure = Table(
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

first_exposure = Table(
    "first_exposure",
    metadata,
    Column("experiment", Text, ForeignKey("experiment.key"), primary_key=True),
    Column("unit_id", Text, primary_key=True),
    Column("arm", Text, nullable=False),
    Column("first_time", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

engagement = Table(
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

order_event = Table(
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

sink_offset = Table(
    "sink_offset",
    metadata,
    # Offsets mean nothing in another cluster, nor in a topic that was deleted and made again.
    Column("log", Text, primary_key=True, doc="identifies the topic's log: Kafka's cluster id and topic id"),
    Column("topic", Text, primary_key=True),
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("next_offset", BigInteger, CheckConstraint("next_offset >= 0"), nullable=False),
)


def _sqlite_triggers(table: Table) -> list[str]:
    same_key = " and ".join(f"{column.name} = new.{column.name}" for column in table.primary_key)
    refusals = {
        "update": "",
        "delete": "",
        # INSERT OR REPLACE deletes without firing a delete trigger, but fires this one first.
        "insert": f"when exists (select 1 from {table.name} where {same_key})",
    }
    return [
        f"create trigger {table.name}_no_{action} before {action} on {table.name} {when} "
        f"begin select raise(abort, '{table.name} is append-only'); end"
        for action, when in refusals.items()
    ]


_SQLITE_WEIGHTS: Final = (
    "create trigger experiment_version_weights before insert on experiment_version "
    "when (select coalesce(sum(json_extract(value, '$.weight')), 0) from json_each(new.config, '$.arms')) <> 10000 "
    "begin select raise(abort, 'the arms of a config must sum to 10000'); end"
)
_POSTGRESQL_APPEND_ONLY: Final = (
    "create or replace function refuse_change() returns trigger language plpgsql as "
    "$$ begin raise exception using message = tg_table_name || ' is append-only'; end $$"
)
_POSTGRESQL_WEIGHTS: Final = (
    "create or replace function check_weights() returns trigger language plpgsql as $$ begin "
    "if (select coalesce(sum((arm->>'weight')::int), 0) from jsonb_array_elements(new.config::jsonb->'arms') arm) "
    "<> 10000 then raise exception 'the arms of a config must sum to 10000'; end if; return new; end $$",
    "create trigger experiment_version_weights before insert on experiment_version "
    "for each row execute function check_weights()",
)


def _postgresql_triggers(table: Table) -> list[str]:
    return [
        _POSTGRESQL_APPEND_ONLY,
        f"create trigger {table.name}_no_change before update or delete on {table.name} "
        "for each row execute function refuse_change()",
        f"create trigger {table.name}_no_truncate before truncate on {table.name} "
        "for each statement execute function refuse_change()",
    ]


def _after_create(table: Table, dialect: str, statements: list[str]) -> None:
    for statement in statements:
        ddl = DDL(statement)  # type: ignore[no-untyped-call]
        event.listen(table, "after_create", ddl.execute_if(dialect=dialect))


for _table in (experiment_version, transition):
    _after_create(_table, "sqlite", _sqlite_triggers(_table))
    _after_create(_table, "postgresql", _postgresql_triggers(_table))
_after_create(experiment_version, "sqlite", [_SQLITE_WEIGHTS])
_after_create(experiment_version, "postgresql", list(_POSTGRESQL_WEIGHTS))

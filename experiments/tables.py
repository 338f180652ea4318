"""The tables of the newest revision of `migrations`, for SQLite and PostgreSQL.

Times are BIGINT microseconds since the Unix epoch, UTC: the same in every engine. The tables of `RECORDS` are
append-only: triggers refuse UPDATE and DELETE (on PostgreSQL also TRUNCATE, on SQLite also the delete of an INSERT OR
REPLACE). Other triggers refuse arms that do not sum to 10,000, a salt of another experiment or phase, a transition that
the life cycle does not have, a layer that does not exist, a layer range that another live experiment holds, and a phase
that is not the next one. `analysis` reads `exposure`, `event` and `order_event`, and the views `first_exposure` and
`first_exposure_attribute` of the current phase.
"""

from typing import Final, get_args

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
)

from experiments.lifecycle import FOLLOWERS, Action, Decision
from experiments.roles import Role

REVISION: Final = "0001"
"""The newest revision of `migrations`, which this program needs."""

REVISION_TABLE: Final = "experiment_schema"
"""The table that holds the revision. Another program in the same database may use Alembic's default name."""

MULTIPLE_ARMS: Final = "__multiple__"
"""The arm of a unit that was seen in two arms; no config can have an arm of this name."""

metadata = MetaData()


def _one_of(column: str, values: tuple[str, ...]) -> CheckConstraint:
    return CheckConstraint(f"{column} in ({', '.join(map(repr, values))})", name=f"{column}_known")


experiment = Table(
    "experiment",
    metadata,
    Column("key", Text, primary_key=True),
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("phase", Integer, nullable=False, server_default="1", doc="the current phase; it only grows"),
)

layer = Table(
    "layer",
    metadata,
    Column("key", Text, primary_key=True),
    Column("description", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", Text, CheckConstraint("created_by <> ''"), nullable=False),
)

metric = Table(
    "metric",
    metadata,
    Column("key", Text, primary_key=True),
    Column("version", Integer, CheckConstraint("version >= 1"), primary_key=True, autoincrement=False),
    Column("definition", Text, nullable=False, doc="canonical JSON"),
    Column("sha256", Text, CheckConstraint("length(sha256) = 64"), nullable=False, doc="of `definition`, hexadecimal"),
    Column("owner", Text, CheckConstraint("owner <> ''"), nullable=False),
    Column("tier", Integer, CheckConstraint("tier between 1 and 3"), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", Text, CheckConstraint("created_by <> ''"), nullable=False),
)

experiment_version = Table(
    "experiment_version",
    metadata,
    Column("experiment", Text, ForeignKey("experiment.key"), primary_key=True),
    Column("version", Integer, CheckConstraint("version >= 1"), primary_key=True, autoincrement=False),
    Column("config", Text, nullable=False, doc="canonical JSON"),
    Column("sha256", Text, CheckConstraint("length(sha256) = 64"), nullable=False, doc="of `config`, hexadecimal"),
    Column("salt", Text, nullable=False, index=True, doc="of `config`, to find another experiment with this salt"),
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("phase", Integer, nullable=False, server_default="1", doc="versions of one phase have the same draws"),
)

transition = Table(
    "transition",
    metadata,
    Column("experiment", Text, ForeignKey("experiment.key"), primary_key=True),
    # When two writers saw the same last row, the primary key accepts the first one and refuses the other.
    Column("sequence", Integer, CheckConstraint("sequence >= 1"), primary_key=True, autoincrement=False),
    Column("state", Text, nullable=False),
    Column("version", Integer, doc="the version in force from this row on; NULL for a draft"),
    Column("outcome", Text, doc="of a decided experiment"),
    Column("at", BigInteger, nullable=False),
    Column("actor", Text, CheckConstraint("actor <> ''"), nullable=False),
    Column("reason", Text, nullable=False),
    Column("evidence", Text, doc="JSON: what a guardrail was judged by"),
    ForeignKeyConstraint(["experiment", "version"], ["experiment_version.experiment", "experiment_version.version"]),
    _one_of("state", tuple(FOLLOWERS)),
    _one_of("outcome", get_args(Decision)),
    CheckConstraint("outcome is null or state in ('decided', 'archived')", name="outcome_when_decided"),
    CheckConstraint("state <> 'decided' or outcome is not null", name="decided_has_outcome"),
    CheckConstraint("version is not null or state in ('draft', 'archived')", name="version_unless_draft"),
)

audit = Table(
    "audit",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("actor", Text, CheckConstraint("actor <> ''"), nullable=False),
    Column("action", Text, nullable=False),
    Column("subject", Text, nullable=False, doc="the key of an experiment, layer or metric, or an API key's id"),
    Column("reason", Text, nullable=False),
    Column("detail", Text, nullable=False, doc="JSON"),
    Index("audit_subject", "subject"),
)

scheduled = Table(
    "scheduled",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("experiment", Text, ForeignKey("experiment.key"), nullable=False, index=True),
    Column("at", BigInteger, nullable=False, doc="earliest time to run it"),
    Column("action", Text, nullable=False),
    Column("coverage", Integer, doc="of a ramp"),
    Column("actor", Text, CheckConstraint("actor <> ''"), nullable=False),
    Column("reason", Text, nullable=False),
    _one_of("action", get_args(Action)),
    CheckConstraint("(action = 'ramp') = (coverage is not null)", name="coverage_when_ramp"),
    CheckConstraint("coverage between 0 and 10000", name="coverage_share"),
)

scheduled_result = Table(
    "scheduled_result",
    metadata,
    Column("id", Integer, ForeignKey("scheduled.id"), primary_key=True, autoincrement=False),
    Column("at", BigInteger, nullable=False),
    Column("result", Text, nullable=False),
    Column("detail", Text, nullable=False, doc="why it failed or was cancelled"),
    _one_of("result", ("done", "failed", "cancelled")),
)

api_key = Table(
    "api_key",
    metadata,
    Column("id", Text, primary_key=True, doc="the public part"),
    Column("name", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("sha256", Text, CheckConstraint("length(sha256) = 64"), nullable=False, doc="of the secret part"),
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", Text, CheckConstraint("created_by <> ''"), nullable=False),
    _one_of("role", get_args(Role)),
)

api_key_revocation = Table(
    "api_key_revocation",
    metadata,
    Column("id", Text, ForeignKey("api_key.id"), primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("actor", Text, CheckConstraint("actor <> ''"), nullable=False),
    Column("reason", Text, nullable=False),
)

override = Table(
    "override",
    metadata,
    Column("experiment", Text, ForeignKey("experiment.key"), primary_key=True),
    Column("unit_id", Text, primary_key=True),
    Column("arm", Text, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
)

unit_token = Table(
    "unit_token",
    metadata,
    Column("lookup", Text, primary_key=True, doc="keyed hash of the user id, which is stored nowhere"),
    Column("nonce", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
)

RECORDS: Final = (
    *(layer, metric, experiment_version, transition, audit),
    *(scheduled, scheduled_result, api_key, api_key_revocation),
)
"""The append-only tables."""

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
    Column("attributes", Text, nullable=False, server_default="{}", doc="JSON: what the config records"),
    ForeignKeyConstraint(
        ["experiment", "config_version"], ["experiment_version.experiment", "experiment_version.version"]
    ),
    Index("exposure_experiment_unit", "experiment", "unit_id"),
)

first_exposure_by_phase = Table(
    "first_exposure_by_phase",
    metadata,
    Column("experiment", Text, ForeignKey("experiment.key"), primary_key=True),
    Column("phase", Integer, primary_key=True, autoincrement=False),
    Column("unit_id", Text, primary_key=True),
    Column("arm", Text, nullable=False),
    Column("first_time", BigInteger, nullable=False),
    Column("attributes", Text, nullable=False, server_default="{}", doc="JSON: attributes of the first exposure"),
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
    # Offsets are valid only in the same cluster, and until the topic is deleted.
    Column("log", Text, primary_key=True, doc="identifies the topic's log: Kafka's cluster id and topic id"),
    Column("topic", Text, primary_key=True),
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("next_offset", BigInteger, CheckConstraint("next_offset >= 0"), nullable=False),
)

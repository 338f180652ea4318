"""Phases, the audit log, the schedule, forced arms, unit tokens, API keys; the life cycle's rules in the database.

`first_exposure` becomes a view of the phase that an experiment is in: a new phase draws anew, and a unit's arm of the
phase before must not count against it.
"""

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

revision = "0002"
down_revision = "0001"

_OUTCOMES = "outcome in ('ship', 'roll_back', 'inconclusive')"
_STATES = {
    "0001": "state in ('draft', 'running', 'paused', 'stopped', 'decided')",
    "0002": "state in ('draft', 'in_review', 'running', 'paused', 'stopped', 'decided', 'archived')",
}
_OUTCOME_WHEN = {
    "0001": "(state = 'decided') = (outcome is not null)",
    "0002": "outcome is null or state in ('decided', 'archived')",
}
_VERSION_UNLESS = {
    "0001": "(state = 'draft') = (version is null)",
    "0002": "version is not null or state in ('draft', 'archived')",
}
_DECIDED_HAS = "state <> 'decided' or outcome is not null"
_REFERRED = ("experiment", "experiment_version")  # by foreign keys of what is made here


def _transition(metadata: MetaData, schema: str) -> Table:
    new = schema == "0002"
    return Table(
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
        *([Column("evidence", Text)] if new else []),
        ForeignKeyConstraint(
            ["experiment", "version"], ["experiment_version.experiment", "experiment_version.version"]
        ),
        CheckConstraint(_STATES[schema], name="state_known"),
        CheckConstraint(_OUTCOMES, name="outcome_known"),
        CheckConstraint(_OUTCOME_WHEN[schema], name="outcome_when_decided"),
        *([CheckConstraint(_DECIDED_HAS, name="decided_has_outcome")] if new else []),
        CheckConstraint(_VERSION_UNLESS[schema], name="version_unless_draft"),
    )


def _new_tables(metadata: MetaData) -> list[Table]:
    return [
        Table(
            "first_exposure_by_phase",
            metadata,
            Column("experiment", Text, ForeignKey("experiment.key"), primary_key=True),
            Column("phase", Integer, primary_key=True, autoincrement=False),
            Column("unit_id", Text, primary_key=True),
            Column("arm", Text, nullable=False),
            Column("first_time", BigInteger, nullable=False),
            sqlite_with_rowid=False,
        ),
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
        ),
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
            CheckConstraint("action in ('start', 'pause', 'ramp', 'stop')", name="action_known"),
            CheckConstraint("(action = 'ramp') = (coverage is not null)", name="coverage_when_ramp"),
            CheckConstraint("coverage between 0 and 10000", name="coverage_share"),
        ),
        Table(
            "scheduled_result",
            metadata,
            Column("id", Integer, ForeignKey("scheduled.id"), primary_key=True, autoincrement=False),
            Column("at", BigInteger, nullable=False),
            Column("result", Text, nullable=False),
            Column("detail", Text, nullable=False),
            CheckConstraint("result in ('done', 'failed', 'cancelled')", name="result_known"),
        ),
        Table(
            "override",
            metadata,
            Column("experiment", Text, ForeignKey("experiment.key"), primary_key=True),
            Column("unit_id", Text, primary_key=True),
            Column("arm", Text, nullable=False),
            Column("expires_at", BigInteger, nullable=False),
        ),
        Table(
            "unit_token",
            metadata,
            Column("lookup", Text, primary_key=True),
            Column("nonce", Text, nullable=False),
            Column("created_at", BigInteger, nullable=False),
        ),
        Table(
            "api_key",
            metadata,
            Column("id", Text, primary_key=True),
            Column("name", Text, nullable=False),
            Column("role", Text, nullable=False),
            Column("sha256", Text, CheckConstraint("length(sha256) = 64"), nullable=False),
            Column("created_at", BigInteger, nullable=False),
            Column("created_by", Text, CheckConstraint("created_by <> ''"), nullable=False),
            CheckConstraint("role in ('read', 'assign', 'edit', 'admin')", name="role_known"),
        ),
        Table(
            "api_key_revocation",
            metadata,
            Column("id", Text, ForeignKey("api_key.id"), primary_key=True),
            Column("at", BigInteger, nullable=False),
            Column("actor", Text, CheckConstraint("actor <> ''"), nullable=False),
            Column("reason", Text, nullable=False),
        ),
    ]


_VIEW = (
    "create view first_exposure as select f.experiment, f.unit_id, f.arm, f.first_time "
    "from first_exposure_by_phase f join experiment e on e.key = f.experiment and e.phase = f.phase"
)
_RECORDS = ("audit", "scheduled", "scheduled_result", "api_key", "api_key_revocation")
_FOLLOWS = ", ".join(
    f"'{pair}'"
    for pair in (
        *("draft>in_review", "draft>running", "draft>archived"),
        *("in_review>draft", "in_review>running", "in_review>archived"),
        # The same state again puts another version in force.
        *("running>running", "running>paused", "running>stopped"),
        *("paused>paused", "paused>running", "paused>stopped"),
        *("stopped>running", "stopped>decided", "decided>archived"),
    )
)
_NO_SUCH_STEP = (
    "not (new.sequence = 1 and new.state = 'draft') and not exists (select 1 from transition p "
    "where p.experiment = new.experiment and p.sequence = new.sequence - 1 "
    f"and p.state || '>' || new.state in ({_FOLLOWS}) "
    # What was stopped runs again only in a new phase, which is a new version.
    "and (p.state <> 'stopped' or new.state <> 'running' or new.version > p.version))"
)
_SALT_IS_USED = (
    "exists (select 1 from experiment_version v where v.salt = new.salt "
    "and (v.experiment <> new.experiment or v.phase <> new.phase))"
)


def _layer_is_held(field: str, number: str) -> str:
    """`field` and `number`: how a dialect reads a text and a number of a config's layer."""

    def read(which: str, name: str) -> str:
        return (field if name == "key" else number).format(which=which, name=name)

    return (
        "new.state in ('running', 'paused') and exists (select 1 from experiment_version mine "
        "join transition t on t.experiment <> mine.experiment and t.state in ('running', 'paused') "
        "and t.sequence = (select max(sequence) from transition last where last.experiment = t.experiment) "
        "join experiment_version held on held.experiment = t.experiment and held.version = t.version "
        "where mine.experiment = new.experiment and mine.version = new.version "
        f"and {read('mine', 'key')} = {read('held', 'key')} "
        f"and {read('mine', 'start')} < {read('held', 'end')} and {read('held', 'start')} < {read('mine', 'end')})"
    )


_SQLITE_LAYER = _layer_is_held(
    "json_extract({which}.config, '$.layer.{name}')", "json_extract({which}.config, '$.layer.{name}')"
)
_POSTGRESQL_LAYER = _layer_is_held(
    "({which}.config::jsonb->'layer'->>'{name}')", "({which}.config::jsonb->'layer'->>'{name}')::int"
)
_TRANSITION_RULES = {
    "sqlite": {
        "transition_follows": (_NO_SUCH_STEP, "the life cycle knows no such transition"),
        "transition_layer": (_SQLITE_LAYER, "the layer range is held by another live experiment"),
    },
    "postgresql": {
        "transition_follows": (_NO_SUCH_STEP, "the life cycle knows no such transition"),
        "transition_layer": (_POSTGRESQL_LAYER, "the layer range is held by another live experiment"),
    },
}
_VERSION_RULES = {"experiment_version_salt": (_SALT_IS_USED, "the salt was used by another experiment or phase")}
_POSTGRESQL_VERSION_RULES = {
    **_VERSION_RULES,
    "experiment_version_sha256": (
        "encode(sha256(convert_to(new.config, 'UTF8')), 'hex') <> new.sha256",
        "sha256 is not that of the config",
    ),
}


def _append_only(connection: Connection, table: str, key: tuple[str, ...]) -> None:
    if connection.dialect.name == "postgresql":
        for name, actions, each in (("change", "update or delete", "row"), ("truncate", "truncate", "statement")):
            connection.exec_driver_sql(
                f"create trigger {table}_no_{name} before {actions} on {table} "
                f"for each {each} execute function refuse_change()"
            )
        return
    same = " and ".join(f"{column} = new.{column}" for column in key)
    for action, when in (
        ("update", ""),
        ("delete", ""),
        ("insert", f"when exists (select 1 from {table} where {same})"),
    ):
        connection.exec_driver_sql(
            f"create trigger {table}_no_{action} before {action} on {table} {when} "
            f"begin select raise(abort, '{table} is append-only'); end"
        )


def _rule(connection: Connection, table: str, name: str, forbidden: str, message: str, on: str = "insert") -> None:
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(
            f"create function {name}() returns trigger language plpgsql as $$ begin "
            f"if {forbidden} then raise exception '{message}'; end if; return new; end $$"
        )
        connection.exec_driver_sql(
            f"create trigger {name} before {on} on {table} for each row execute function {name}()"
        )
    else:
        connection.exec_driver_sql(
            f"create trigger {name} before {on} on {table} when {forbidden} begin select raise(abort, '{message}'); end"
        )


def _remake_transition(connection: Connection, schema: str) -> None:
    """SQLite cannot alter a constraint: the table is made anew and its rows are copied."""
    metadata = MetaData()
    metadata.reflect(connection, only=_REFERRED)
    columns = "experiment, sequence, state, version, outcome, at, actor, reason"
    connection.exec_driver_sql("alter table transition rename to transition_old")
    for trigger in ("update", "delete", "insert"):
        connection.exec_driver_sql(f"drop trigger transition_no_{trigger}")
    _transition(metadata, schema).create(connection)
    connection.exec_driver_sql(f"insert into transition ({columns}) select {columns} from transition_old")
    connection.exec_driver_sql("drop table transition_old")
    _append_only(connection, "transition", ("experiment", "sequence"))


def _alter_transition(schema: str) -> None:
    for name, rule in (
        ("state_known", _STATES),
        ("outcome_when_decided", _OUTCOME_WHEN),
        ("version_unless_draft", _VERSION_UNLESS),
    ):
        op.drop_constraint(name, "transition", type_="check")
        op.create_check_constraint(name, "transition", rule[schema])
    if schema == "0002":
        op.add_column("transition", Column("evidence", Text))
        op.create_check_constraint("decided_has_outcome", "transition", _DECIDED_HAS)
    else:
        op.drop_constraint("decided_has_outcome", "transition", type_="check")
        op.drop_column("transition", "evidence")


def upgrade() -> None:
    connection = op.get_bind()
    dialect = connection.dialect.name
    for table in ("experiment", "experiment_version"):
        op.add_column(table, Column("phase", Integer, nullable=False, server_default="1"))
    if dialect == "sqlite":
        _remake_transition(connection, "0002")
    else:
        _alter_transition("0002")
    metadata = MetaData()
    metadata.reflect(connection, only=_REFERRED)
    for new in _new_tables(metadata):
        new.create(connection)
    connection.exec_driver_sql(
        "insert into first_exposure_by_phase (experiment, phase, unit_id, arm, first_time) "
        "select experiment, 1, unit_id, arm, first_time from first_exposure"
    )
    op.drop_table("first_exposure")
    connection.exec_driver_sql(_VIEW)
    for name in _RECORDS:
        _append_only(connection, name, ("id",))
    for name, (forbidden, message) in _TRANSITION_RULES[dialect].items():
        _rule(connection, "transition", name, forbidden, message)
    version_rules = _VERSION_RULES if dialect == "sqlite" else _POSTGRESQL_VERSION_RULES
    for name, (forbidden, message) in version_rules.items():
        _rule(connection, "experiment_version", name, forbidden, message)
    _rule(
        connection,
        "experiment",
        "experiment_phase_grows",
        "new.phase <> old.phase + 1",
        "a phase is followed by the next",
        on="update of phase",
    )
    op.drop_table("schema_version")


def downgrade() -> None:
    """Takes back what 0001 can hold: phases after the first, reviews and archives it cannot, and refuses."""
    connection = op.get_bind()
    lost = {
        "phases after the first": "select count(*) from experiment where phase > 1",
        "reviewed or archived experiments": "select count(*) from transition where state in ('in_review', 'archived')",
    }
    for what, query in lost.items():
        if connection.exec_driver_sql(query).scalar():
            raise ValueError(f"schema 0001 cannot hold {what}: this database stays at 0002.")
    is_sqlite = connection.dialect.name == "sqlite"
    connection.exec_driver_sql("drop view first_exposure")
    rules = {
        "experiment": ["experiment_phase_grows"],
        "transition": [*_TRANSITION_RULES[connection.dialect.name]],
        "experiment_version": [*(_VERSION_RULES if is_sqlite else _POSTGRESQL_VERSION_RULES)],
    }
    for table, names in rules.items():
        for name in names:
            if is_sqlite:
                connection.exec_driver_sql(f"drop trigger {name}")
            else:
                connection.exec_driver_sql(f"drop trigger {name} on {table}")
                connection.exec_driver_sql(f"drop function {name}()")
    if is_sqlite:
        _remake_transition(connection, "0001")
    else:
        _alter_transition("0001")
    metadata = MetaData()
    metadata.reflect(connection, only=_REFERRED)
    Table(
        "first_exposure",
        metadata,
        Column("experiment", Text, ForeignKey("experiment.key"), primary_key=True),
        Column("unit_id", Text, primary_key=True),
        Column("arm", Text, nullable=False),
        Column("first_time", BigInteger, nullable=False),
        sqlite_with_rowid=False,
    ).create(connection)
    connection.exec_driver_sql(
        "insert into first_exposure (experiment, unit_id, arm, first_time) "
        "select experiment, unit_id, arm, first_time from first_exposure_by_phase"
    )
    for name in ("scheduled_result", "scheduled", "api_key_revocation", "api_key", "override", "unit_token", "audit"):
        op.drop_table(name)
    op.drop_table("first_exposure_by_phase")
    for name in ("experiment", "experiment_version"):
        op.drop_column(name, "phase")
    op.create_table("schema_version", Column("version", Integer, primary_key=True, autoincrement=False))
    connection.exec_driver_sql("insert into schema_version values (2)")

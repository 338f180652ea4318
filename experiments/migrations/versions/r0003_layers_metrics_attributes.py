"""Layers and metrics as records of their own; attributes as they were at first exposure.

A config's layer has to be one that was made, so that a misspelt one is no new layer without neighbours. Those that
configs name already are taken over.
"""

from alembic import op
from sqlalchemy import BigInteger, CheckConstraint, Column, Connection, Integer, MetaData, Table, Text

revision = "0003"
down_revision = "0002"

_TABLES = {"layer": ("key",), "metric": ("key", "version")}
_FIRST_EXPOSURE = (
    "create view first_exposure as select f.experiment, f.unit_id, f.arm, f.first_time{more} "
    "from first_exposure_by_phase f join experiment e on e.key = f.experiment and e.phase = f.phase"
)
# One row per unit and attribute, its value as text (true and false as these words), alike on both databases.
_ATTRIBUTE = {
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
_LAYER_OF = {
    "sqlite": "json_extract({config}, '$.layer.key')",
    "postgresql": "({config}::jsonb->'layer'->>'key')",
}
_NO_SUCH_LAYER = "the layer was not made"


def _metadata() -> MetaData:
    metadata = MetaData()
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
    return metadata


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


def _layer_rule(connection: Connection, layer_of: str) -> None:
    layer = layer_of.format(config="new.config")
    forbidden = f"{layer} is not null and not exists (select 1 from layer where key = {layer})"
    name = "experiment_version_layer"
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(
            f"create function {name}() returns trigger language plpgsql as $$ begin "
            f"if {forbidden} then raise exception '{_NO_SUCH_LAYER}'; end if; return new; end $$"
        )
        connection.exec_driver_sql(
            f"create trigger {name} before insert on experiment_version for each row execute function {name}()"
        )
    else:
        connection.exec_driver_sql(
            f"create trigger {name} before insert on experiment_version when {forbidden} "
            f"begin select raise(abort, '{_NO_SUCH_LAYER}'); end"
        )


def upgrade() -> None:
    connection = op.get_bind()
    dialect = connection.dialect.name
    _metadata().create_all(connection, checkfirst=False)
    layer = _LAYER_OF[dialect].format(config="v.config")
    connection.exec_driver_sql(
        "insert into layer (key, description, created_at, created_by) "
        f"select {layer}, '', min(v.created_at), min(v.created_by) from experiment_version v "
        f"where {layer} is not null group by {layer}"
    )
    for name, key in _TABLES.items():
        _append_only(connection, name, key)
    _layer_rule(connection, _LAYER_OF[dialect])
    connection.exec_driver_sql("drop view first_exposure")
    for name in ("exposure", "first_exposure_by_phase"):
        op.add_column(name, Column("attributes", Text, nullable=False, server_default="{}"))
    connection.exec_driver_sql(_FIRST_EXPOSURE.format(more=", f.attributes"))
    connection.exec_driver_sql(f"create view first_exposure_attribute as {_ATTRIBUTE[dialect]}")


def downgrade() -> None:
    """Drops what is newer: metrics, layers as such (configs keep their ranges), recorded attributes."""
    connection = op.get_bind()
    for view in ("first_exposure_attribute", "first_exposure"):
        connection.exec_driver_sql(f"drop view {view}")
    for name in ("exposure", "first_exposure_by_phase"):
        op.drop_column(name, "attributes")
    connection.exec_driver_sql(_FIRST_EXPOSURE.format(more=""))
    rule = "experiment_version_layer"
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"drop trigger {rule} on experiment_version")
        connection.exec_driver_sql(f"drop function {rule}()")
    else:
        connection.exec_driver_sql(f"drop trigger {rule}")
    for name in _TABLES:
        op.drop_table(name)

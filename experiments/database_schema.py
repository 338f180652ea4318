"""The database's revision: which one it has, whether it is ours, and how it gets there (`migrations`, Alembic)."""

from importlib.resources import files

from sqlalchemy import Column, Connection, MetaData, Table, Text, inspect, select

from experiments.errors import SchemaError
from experiments.tables import REVISION, REVISION_TABLE

_FIRST = "0001"
_BEFORE_MIGRATIONS = "schema_version"  # the table that said so before there were migrations
_table = Table(REVISION_TABLE, MetaData(), Column("version_num", Text))


def revision(connection: Connection) -> str | None:
    """The revision of the database's tables; None when there are none."""
    found = inspect(connection)
    if found.has_table(REVISION_TABLE):
        return connection.execute(select(_table.c.version_num)).scalar()
    return _FIRST if found.has_table(_BEFORE_MIGRATIONS) else None


def check(connection: Connection) -> None:
    """Raises SchemaError unless the database is of this program's revision."""
    url = connection.engine.url.render_as_string(hide_password=True)
    found = revision(connection)
    if found is None:
        raise SchemaError(f"{url} has no experiment tables; make them first (`sagelift experiment migrate`).")
    if found != REVISION:
        behind = found < REVISION
        remedy = "run `sagelift experiment migrate`" if behind else "upgrade this program"
        raise SchemaError(f"{url} has schema revision {found}, this program needs {REVISION}: {remedy}.")


def migrate(connection: Connection, target: str = "head") -> None:
    """Brings the database to a revision inside the caller's transaction. `target`: as `0001`, `head`, or `base` for no
    tables at all. Raises SchemaError when this program does not know a revision, or one cannot be taken back.
    """
    # Alembic takes longer to import than a database that is current takes to check.
    from alembic.command import downgrade, stamp, upgrade
    from alembic.config import Config
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    config = Config(attributes={"connection": connection, "version_table": REVISION_TABLE})
    config.set_main_option("script_location", str(files("experiments") / "migrations").replace("%", "%%"))
    known = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]
    wanted = {"head": known[0], "base": None}.get(target, target)
    found = revision(connection)
    for name in (wanted, found):
        if name is not None and name not in known:
            raise SchemaError(
                f"schema revision {name!r} is not known here; this program has {', '.join(reversed(known))}: "
                "choose one of these, or upgrade this program."
            )
    try:
        if found == _FIRST and not inspect(connection).has_table(REVISION_TABLE):
            stamp(config, _FIRST)
        if wanted is not None and (found is None or wanted > found):
            upgrade(config, wanted)
        elif wanted != found:
            downgrade(config, wanted or "base")
            if wanted is None:
                _table.drop(connection)
    except (CommandError, ValueError) as error:
        raise SchemaError(f"the database cannot be brought to revision {target}: {error}") from error

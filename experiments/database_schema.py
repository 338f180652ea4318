"""The revision of the database's schema: read it, check it, and migrate to another one (`migrations`, with Alembic)."""

from importlib.resources import files

from sqlalchemy import Column, Connection, MetaData, Table, Text, inspect, select

from experiments.errors import SchemaError
from experiments.tables import REVISION, REVISION_TABLE

_table = Table(REVISION_TABLE, MetaData(), Column("version_num", Text))


def revision(connection: Connection) -> str | None:
    """Return the revision of the database's tables; None when there are no tables."""
    if not inspect(connection).has_table(REVISION_TABLE):
        return None
    return connection.execute(select(_table.c.version_num)).scalar()


def check(connection: Connection) -> None:
    """Check that the database has this program's revision.

    Raises:
        SchemaError: The tables are missing, or have another revision.
    """
    url = connection.engine.url.render_as_string(hide_password=True)
    current = revision(connection)
    if current is None:
        raise SchemaError(f"{url} has no experiment tables; create them first (`sagelift experiment migrate`).")
    if current != REVISION:
        remedy = "run `sagelift experiment migrate`" if current < REVISION else "upgrade this program"
        raise SchemaError(f"{url} has schema revision {current}, this program needs {REVISION}: {remedy}.")


def migrate(connection: Connection, target: str = "head") -> None:
    """Migrate the database up or down to a revision, inside the caller's transaction.

    Args:
        connection: Connection with an open transaction.
        target: A revision such as `0001`, `head` for the newest one, or `base` to drop all tables.

    Raises:
        SchemaError: This program does not know the target or the database's revision, or the migration is impossible.
    """
    # Importing Alembic takes longer than checking a database that is current.
    from alembic.command import downgrade, upgrade
    from alembic.config import Config
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    config = Config(attributes={"connection": connection, "version_table": REVISION_TABLE})
    config.set_main_option("script_location", str(files("experiments") / "migrations").replace("%", "%%"))
    revisions = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]
    goal = {"head": revisions[0], "base": None}.get(target, target)
    current = revision(connection)
    for name in (goal, current):
        if name is not None and name not in revisions:
            raise SchemaError(
                f"schema revision {name!r} is not known here; this program has {', '.join(reversed(revisions))}: "
                "choose one of these, or upgrade this program."
            )
    try:
        if goal is not None and (current is None or goal > current):
            upgrade(config, goal)
        elif goal != current:
            downgrade(config, goal or "base")
            if goal is None:
                _table.drop(connection)
    except (CommandError, ValueError) as error:
        raise SchemaError(f"the database cannot be migrated to revision {target}: {error}") from error

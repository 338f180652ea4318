"""The revision of a database is read, checked and migrated as a whole or not at all."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, inspect, text
from sqlalchemy.exc import DatabaseError

from experiments import database_schema, tables
from experiments.engine import exclusive, writing
from experiments.errors import SchemaError
from experiments.store import ExperimentStore
from tests.experiments.builders import database_rules

REPOSITORY = Path(__file__).parents[2]


Connect = Callable[[], Engine]


NEWEST = tables.REVISION


def test_the_revision_of_the_program_is_the_newest_migration() -> None:
    names = sorted(path.name for path in (REPOSITORY / "experiments" / "migrations" / "versions").glob("r*.py"))
    assert names[-1].startswith(f"r{tables.REVISION}_")


def test_a_database_of_an_older_revision_is_refused(connect: Connect) -> None:
    store = ExperimentStore(connect())
    store.create_all()
    with writing(store.engine) as connection:
        connection.execute(text(f"update {tables.REVISION_TABLE} set version_num = '0000'"))
    behind = f"revision 0000, this program needs {NEWEST}: run `sagelift experiment migrate`"
    for act in (store.check_schema, store.create_all):
        with pytest.raises(SchemaError, match=behind):
            act()


def test_a_migration_that_fails_changes_nothing(connect: Connect) -> None:
    """Another program's view has the name of one of ours; the tables that were made before it are rolled back."""
    store = ExperimentStore(connect())
    with writing(store.engine) as connection:
        connection.execute(text("create view first_exposure as select 1 as one"))
    before = database_rules(store.engine), inspect(store.engine).get_table_names()
    with pytest.raises(DatabaseError, match="first_exposure"):
        store.migrate()
    assert (database_rules(store.engine), inspect(store.engine).get_table_names()) == before
    with writing(store.engine) as connection:
        connection.execute(text("drop view first_exposure"))
    assert store.migrate() == (None, NEWEST)


@pytest.mark.parametrize("target", ["0009", "nonsense"])
def test_an_unknown_revision_is_named(connect: Connect, target: str) -> None:
    with pytest.raises(SchemaError, match=rf"'{target}' is not known here; this program has {NEWEST}"):
        ExperimentStore(connect()).migrate(target)


def test_a_database_of_a_newer_program_is_not_changed(connect: Connect) -> None:
    store = ExperimentStore(connect())
    store.create_all()
    with exclusive(store.engine) as connection:
        connection.execute(text(f"update {tables.REVISION_TABLE} set version_num = '0099'"))
    for act in (store.create_all, store.check_schema):
        with pytest.raises(SchemaError, match="upgrade this program"):
            act()
    with pytest.raises(SchemaError, match="'0099' is not known here"):
        store.migrate()


def test_checking_a_current_database_imports_no_alembic(tmp_path: Path) -> None:
    """Every command opens the store."""
    engine = create_engine(f"sqlite:///{tmp_path / 'fast.db'}")
    ExperimentStore(engine).create_all()
    engine.dispose()
    code = (
        "import sys\nfrom sqlalchemy import create_engine\nfrom experiments.store import ExperimentStore\n"
        f"ExperimentStore(create_engine('sqlite:///{tmp_path / 'fast.db'}')).create_all()\n"
        "print('alembic' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    with engine.connect() as connection:
        assert database_schema.revision(connection) == tables.REVISION
    engine.dispose()

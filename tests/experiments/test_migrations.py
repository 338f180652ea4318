"""The schema's history: up, down and up again on both databases, with rows in it; what it adds up to is `tables`."""

import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import Engine, create_engine, inspect, text
from sqlalchemy.exc import DatabaseError

from experiments import database_schema, tables
from experiments.config import ExperimentConfig, LayerRange
from experiments.engine import exclusive, writing
from experiments.errors import SchemaError
from experiments.event_rows import EventRow
from experiments.metrics import definitions
from experiments.store import ExperimentStore

REPOSITORY = Path(__file__).parents[2]
WHO: dict[str, str] = {"actor": "ada", "reason": "test"}
Connect = Callable[[], Engine]
REVISIONS = ("0001", "0002", "0003")
NEWEST = REVISIONS[-1]


def live(store: ExperimentStore, config: ExperimentConfig) -> None:
    store.create_experiment(config.key, actor="ada")
    store.publish(config, actor="ada")
    store.transition(config.key, "running", **WHO)


def contents(engine: Engine, names: set[str]) -> dict[str, list[tuple[Any, ...]]]:
    with engine.connect() as connection:
        return {
            name: sorted(map(tuple, connection.execute(text(f"select * from {name}"))), key=repr)
            for name in sorted(names)
        }


def rules(engine: Engine) -> set[tuple[str, ...]]:
    """What the database has beside tables: triggers, views, functions."""
    query = "select type, name, sql from sqlite_master where type in ('trigger', 'view')"
    if engine.dialect.name == "postgresql":
        query = (
            "select 'trigger', tgname, tgrelid::regclass::text from pg_trigger where not tgisinternal union all "
            "select 'function', proname, prosrc from pg_proc where pronamespace = 'public'::regnamespace union all "
            "select 'view', viewname, definition from pg_views where schemaname = 'public'"
        )
    with engine.connect() as connection:
        return {tuple(row) for row in connection.execute(text(query))}


def test_the_newest_revision_is_what_the_tables_say(connect: Connect) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    store = ExperimentStore(connect())
    store.create_all()
    ours = {"include_object": lambda object, name, type_, *_: not (type_ == "table" and name == tables.REVISION_TABLE)}
    with store.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, **ours})
        assert compare_metadata(context, tables.metadata) == []
        found = inspect(connection)
        for table in tables.metadata.sorted_tables:
            stated = {c.name for c in table.constraints if type(c).__name__ == "CheckConstraint" and c.name}
            made = {c["name"] for c in found.get_check_constraints(table.name)}
            assert stated == {name for name in made if name in stated}, table.name
    triggers = {name for kind, name, _ in rules(store.engine) if kind == "trigger"}
    for table in tables.RECORDS:
        assert any(name.startswith(f"{table.name}_no_") for name in triggers), table.name


def test_the_revision_of_the_program_is_the_newest_that_there_is() -> None:
    names = sorted(path.name for path in (REPOSITORY / "experiments" / "migrations" / "versions").glob("r*.py"))
    assert names[-1].startswith(f"r{tables.REVISION}_")


def exposed(unit: str, **attributes: Any) -> EventRow:
    fields = {"experiment": "ranking", "arm": "control", "config_version": 1, "event_time": 1}
    return EventRow(event_id=f"e{unit}", kind="exposure", unit_id=unit, attributes=attributes or None, **fields)  # type: ignore[arg-type]


def test_down_and_up_again_keeps_experiments_and_events(connect: Connect, config: ExperimentConfig) -> None:
    """Also down to nothing; and each revision's rules are there and gone with it."""
    store = ExperimentStore(connect(), clock=lambda: 1_700_000_000_000_000)
    rules_of: dict[str, set[tuple[str, ...]]] = {}
    before_it: str | None = None
    for revision in REVISIONS:
        assert store.migrate(revision) == (before_it, revision)
        rules_of[revision], before_it = rules(store.engine), revision
    assert len({frozenset(each) for each in rules_of.values()}) == len(REVISIONS)
    live(store, config)
    assert store.write_events([exposed("u1"), exposed("u2")], {("events", 0): 3}).written == 2
    kept = {"experiment_version", "transition", "exposure", "first_exposure", "sink_offset"}
    before = contents(store.engine, kept)
    assert before["first_exposure"] == [("ranking", "u1", "control", 1, "{}"), ("ranking", "u2", "control", 1, "{}")]

    for revision in reversed(REVISIONS[:-1]):
        assert store.migrate(revision) == (before_it, revision)
        assert rules(store.engine) == rules_of[revision]
        before_it = revision
        behind = f"revision {revision}, this program needs {NEWEST}: run `sagelift experiment migrate`"
        with pytest.raises(SchemaError, match=behind):
            store.check_schema()
    with pytest.raises(SchemaError, match="sagelift experiment migrate"):
        store.create_all()
    with pytest.raises(DatabaseError, match="append-only"), writing(store.engine) as connection:
        connection.execute(text("delete from transition"))

    store = ExperimentStore(connect(), clock=lambda: 1_700_000_000_000_000)
    assert store.migrate() == ("0001", NEWEST)
    assert rules(store.engine) == rules_of[NEWEST]
    assert contents(store.engine, kept) == before
    assert [published.config for published in store.load()] == [config]
    assert store.migrate("base") == (NEWEST, None)
    assert rules(store.engine) == set()
    assert inspect(connect()).get_table_names() == []


def test_layers_that_configs_name_are_taken_over_from_before_there_were_layers(
    connect: Connect, config: ExperimentConfig
) -> None:
    """And the recorded attributes, which revision 0002 cannot hold, are gone after a way back."""
    store = ExperimentStore(connect(), clock=lambda: 7)
    store.create_all()
    store.create_layer("home", **WHO)
    live(store, msgspec.structs.replace(config, layer=LayerRange("home", 0, 5_001)))
    store.write_events([exposed("u1", country="DE")])
    store.migrate("0002")
    store.migrate()
    (layer,) = store.layers()
    assert (layer.key, layer.created_by, layer.free) == ("home", "ada", ((5_001, 10_000),))
    assert contents(store.engine, {"first_exposure"})["first_exposure"] == [("ranking", "u1", "control", 1, "{}")]


def test_recorded_attributes_read_alike_in_sql(connect: Connect, config: ExperimentConfig) -> None:
    """One row for each attribute of the first exposure of the current phase; text, whatever the value was."""
    store = ExperimentStore(connect(), clock=lambda: 1)
    store.create_all()
    live(store, config)
    told = {"country": "DE", "age": 30, "score": 1.5, "new": True, "old": False, "odd": 'a"b\\é', "number": "30"}
    store.write_events([exposed("u1", **told), exposed("u2")])
    found = contents(store.engine, {"first_exposure_attribute"})["first_exposure_attribute"]
    words = told | {"age": "30", "score": "1.5", "new": "true", "old": "false"}
    assert found == sorted((("ranking", "u1", name, value) for name, value in words.items()), key=repr)


def test_a_database_from_before_there_were_migrations_is_taken_over(connect: Connect) -> None:
    store = ExperimentStore(connect())
    store.migrate("0001")
    with writing(store.engine) as connection:
        connection.execute(text(f"drop table {tables.REVISION_TABLE}"))
        connection.execute(text("insert into experiment values ('old', 1, 'ada')"))
    store = ExperimentStore(connect())
    with pytest.raises(SchemaError, match="revision 0001"):
        store.create_all()
    assert store.migrate() == ("0001", NEWEST)
    assert store.experiment_keys() == {"old"}


def test_a_migration_that_fails_changes_nothing(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ExperimentStore(connect())
    store.migrate("0001")
    before = rules(store.engine), set(inspect(store.engine).get_table_names())

    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("alembic.operations.Operations.drop_table", fail)
    with pytest.raises(OSError, match="disk full"):
        store.migrate()
    monkeypatch.undo()
    assert (rules(store.engine), set(inspect(store.engine).get_table_names())) == before
    assert store.migrate() == ("0001", NEWEST)


def test_what_the_older_schema_cannot_hold_is_not_thrown_away(connect: Connect, config: ExperimentConfig) -> None:
    store = ExperimentStore(connect())
    store.create_all()
    store.create_experiment(config.key, actor="ada")
    store.transition(config.key, "archived", **WHO)
    with pytest.raises(SchemaError, match="cannot hold reviewed or archived experiments"):
        store.migrate("0001")
    store.check_schema()


@pytest.mark.parametrize("target", ["0009", "nonsense"])
def test_a_revision_that_is_not_there_is_named(connect: Connect, target: str) -> None:
    with pytest.raises(SchemaError, match=rf"'{target}' is not known here; this program has 0001, 0002, 0003"):
        ExperimentStore(connect()).migrate(target)


def test_a_database_of_a_newer_program_is_left_alone(connect: Connect) -> None:
    store = ExperimentStore(connect())
    store.create_all()
    with exclusive(store.engine) as connection:
        connection.execute(text(f"update {tables.REVISION_TABLE} set version_num = '0099'"))
    for act in (store.create_all, store.check_schema):
        with pytest.raises(SchemaError, match="upgrade this program"):
            act()
    with pytest.raises(SchemaError, match="'0099' is not known here"):
        store.migrate()


def test_the_database_itself_forbids_what_the_life_cycle_forbids(connect: Connect, config: ExperimentConfig) -> None:
    """Whoever writes past this program is refused by triggers and constraints, on both databases."""
    store = ExperimentStore(connect())
    store.create_all()
    store.create_layer("home", **WHO)
    metric = {"name": "gmv", "owner": "pricing", "tier": 1, "kind": "mean", "column": "gmv_net"}
    store.publish_metrics(definitions([metric]), actor="ada")
    live(store, msgspec.structs.replace(config, layer=LayerRange("home", 0, 5_001)))
    other = msgspec.structs.replace(config, key="two", salt="two-1", layer=LayerRange("home", 5_000, 10_000))
    store.create_experiment("two", actor="ada")
    store.publish(other, actor="ada")
    version = (
        "insert into experiment_version (experiment, version, config, sha256, salt, created_at, created_by, phase)"
    )
    step = "insert into transition (experiment, sequence, state, version, at, actor, reason) values"
    other_text = "insert into experiment_version select experiment, 2, replace(config, 'two-1', 'two-2'), sha256"
    refused = {
        "update experiment_version set salt = 'x'": "append-only",
        "delete from experiment_version": "append-only",
        "update transition set actor = 'x'": "append-only",
        "delete from transition": "append-only",
        "update audit set actor = 'x'": "append-only",
        "delete from audit": "append-only",
        f"{step} ('ranking', 3, 'draft', null, 1, 'x', '')": "no such transition",
        f"{step} ('ranking', 3, 'archived', 1, 1, 'x', '')": "no such transition",
        f"{step} ('ranking', 4, 'paused', 1, 1, 'x', '')": "no such transition",
        f"{step} ('two', 2, 'running', 1, 1, 'x', '')": "layer range is held",
        f"{version} select experiment, 2, config, sha256, salt, 1, 'x', 2 from experiment_version": "salt was used",
        f"{version} select 'two', 2, config, sha256, salt, 1, 'x', 1 from experiment_version "
        "where experiment = 'ranking'": "salt was used",
        "update experiment set phase = 3 where key = 'two'": "followed by the next",
        "insert into scheduled (experiment, at, action, actor, reason) values ('two', 1, 'ramp', 'x', '')": "coverage",
        "insert into scheduled (experiment, at, action, actor, reason) values ('two', 1, 'ship', 'x', '')": "action",
        "update layer set key = 'x'": "append-only",
        "delete from layer": "append-only",
        "update metric set tier = 3": "append-only",
        "delete from metric": "append-only",
        "insert into metric select 'gmv', 2, definition, sha256, owner, 4, 1, 'x' from metric": "tier",
        "insert into metric select 'gmv', 2, definition, sha256, '', 1, 1, 'x' from metric": "owner",
        "insert into experiment_version (experiment, version, config, sha256, salt, created_at, created_by, phase) "
        "select 'two', 2, replace(replace(config, 'two-1', 'two-2'), 'home', 'hmoe'), sha256, 'two-2', 1, 'x', 1 "
        "from experiment_version where experiment = 'two'": "the layer was not made",
        "insert into api_key values ('a', 'n', 'root', '" + "0" * 64 + "', 1, 'x')": "role_known",
    }
    if store.engine.dialect.name == "postgresql":
        refused |= {
            "truncate transition": "append-only",
            "truncate experiment_version cascade": "append-only",
            f"{other_text}, salt, 1, 'x', 1 from experiment_version where experiment = 'two'": "sha256 is not that",
        }
    tables_before = {table.name for table in tables.metadata.sorted_tables}
    before = contents(store.engine, tables_before)
    for statement, reason in refused.items():
        with pytest.raises(DatabaseError, match=reason), writing(store.engine) as connection:
            connection.execute(text(statement))
    assert contents(store.engine, tables_before) == before


def test_an_installed_wheel_has_its_migrations(tmp_path: Path) -> None:
    """Built, unpacked elsewhere and run from there: the scripts are found inside the package."""
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site 100%")
    code = (
        "import experiments, sys\n"
        "from sqlalchemy import create_engine\n"
        "from experiments.store import ExperimentStore\n"
        "assert 'site 100%' in experiments.__file__, experiments.__file__\n"
        "store = ExperimentStore(create_engine('sqlite:///wheel.db'))\n"
        "store.create_all(); print(store.migrate('0001'), store.migrate())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "site 100%"), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "('0003', '0001') ('0001', '0003')"


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

"""The schema's migrations on both databases: up, down and up again equal `tables`, and the database guards its rows."""

import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import Engine, inspect, text
from sqlalchemy.exc import DatabaseError

from experiments import tables
from experiments.config import ExperimentConfig, LayerRange
from experiments.engine import writing
from experiments.event_rows import EventRow
from experiments.metrics import definitions
from experiments.store import ExperimentStore
from tests.experiments.builders import WHO, database_rules, start_live

REPOSITORY = Path(__file__).parents[2]


Connect = Callable[[], Engine]


NEWEST = tables.REVISION


def contents(engine: Engine, names: set[str]) -> dict[str, list[tuple[Any, ...]]]:
    with engine.connect() as connection:
        return {
            name: sorted(map(tuple, connection.execute(text(f"select * from {name}"))), key=repr)
            for name in sorted(names)
        }


def structure(engine: Engine) -> dict[str, Any]:
    """Columns, keys, indexes and checks of every table but the one that holds the revision."""
    inspected = inspect(engine)
    names = sorted(set(inspected.get_table_names()) - {tables.REVISION_TABLE})
    return {
        name: {
            "columns": [{**column, "type": str(column["type"])} for column in inspected.get_columns(name)],
            "primary key": inspected.get_pk_constraint(name),
            "foreign keys": sorted(inspected.get_foreign_keys(name), key=repr),
            "indexes": sorted(inspected.get_indexes(name), key=repr),
            "checks": sorted(inspected.get_check_constraints(name), key=repr),
            "options": inspected.get_table_options(name),
        }
        for name in names
    }


def exposed(unit: str, **attributes: Any) -> EventRow:
    fields = {"experiment": "ranking", "arm": "control", "config_version": 1, "event_time": 1}
    return EventRow(event_id=f"e{unit}", kind="exposure", unit_id=unit, attributes=attributes or None, **fields)  # type: ignore[arg-type]


def test_the_newest_revision_equals_the_tables_and_going_down_empties_the_database(connect: Connect) -> None:
    engine = connect()
    tables.metadata.create_all(engine)
    stated = structure(engine)
    tables.metadata.drop_all(engine)

    store = ExperimentStore(connect())
    assert store.migrate() == (None, NEWEST)
    assert structure(store.engine) == stated
    guards = database_rules(store.engine)
    store.check_schema()

    assert store.migrate("base") == (NEWEST, None)
    assert database_rules(store.engine) == set()
    assert inspect(connect()).get_table_names() == []

    assert store.migrate() == (None, NEWEST)
    assert structure(store.engine) == stated
    assert database_rules(store.engine) == guards


def test_triggers_guard_the_append_only_tables_and_the_life_cycle(connect: Connect) -> None:
    store = ExperimentStore(connect())
    store.create_all()
    by_kind: dict[str, set[str]] = {"trigger": set(), "view": set(), "function": set()}
    for kind, name, _ in database_rules(store.engine):
        by_kind[kind].add(name)
    for table in tables.RECORDS:
        assert any(name.startswith(f"{table.name}_no_") for name in by_kind["trigger"]), table.name
    guards = {
        "experiment_version_weights",
        "experiment_version_salt",
        "experiment_version_layer",
        "transition_follows",
        "transition_layer",
        "experiment_phase_grows",
    }
    if store.engine.dialect.name == "postgresql":
        guards.add("experiment_version_sha256")
        assert by_kind["function"] == {*guards, "refuse_change"}
    assert guards == {name for name in by_kind["trigger"] if "_no_" not in name}
    assert by_kind["view"] == {"first_exposure", "first_exposure_attribute"}


def test_recorded_attributes_read_alike_in_sql(connect: Connect, config: ExperimentConfig) -> None:
    """There is one row per attribute of the first exposure of the current phase, and every value is text."""
    store = ExperimentStore(connect(), clock=lambda: 1)
    store.create_all()
    start_live(store, config)
    given = {"country": "DE", "age": 30, "score": 1.5, "new": True, "old": False, "odd": 'a"b\\é', "number": "30"}
    store.write_events([exposed("u1", **given), exposed("u2")])
    result = contents(store.engine, {"first_exposure_attribute"})["first_exposure_attribute"]
    words = given | {"age": "30", "score": "1.5", "new": "true", "old": "false"}
    assert result == sorted((("ranking", "u1", name, value) for name, value in words.items()), key=repr)


def test_the_database_itself_forbids_what_the_life_cycle_forbids(connect: Connect, config: ExperimentConfig) -> None:
    """Triggers and constraints of both databases refuse writes by other programs."""
    store = ExperimentStore(connect())
    store.create_all()
    store.create_layer("home", **WHO)
    metric = {"name": "gmv", "owner": "pricing", "tier": 1, "kind": "mean", "column": "gmv_net"}
    store.publish_metrics(definitions([metric]), actor="ada")
    start_live(store, msgspec.structs.replace(config, layer=LayerRange("home", 0, 5_001)))
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
        "update experiment set phase = 3 where key = 'two'": "must grow by one",
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
        "from experiment_version where experiment = 'two'": "the layer does not exist",
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
    """The wheel is built, unpacked elsewhere and run from there."""
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
        "store.create_all(); print(store.migrate('base'), store.migrate())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "site 100%"), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "('0001', None) (None, '0001')"

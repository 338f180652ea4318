"""Recorded attributes: only those that the config names, with storable values, and only of enrolled units."""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.assigner import Assigner
from experiments.assignment import Reason
from experiments.attributes import MAX_TEXT, recorded, value_problem
from experiments.config import ExperimentConfig, PublishedExperiment
from experiments.evaluator import prepare
from experiments.event_rows import EventRow, row_problem
from experiments.exposures import ExposureLogger
from experiments.store import ExperimentStore

GIVEN = {"country": "DE", "age": 30, "new": True, "email": "ann@example.org", "tags": ["a"], "plan": None}


def test_only_named_attributes_with_a_storable_value_are_recorded() -> None:
    assert recorded(("country", "age", "new", "gone", "tags", "plan"), GIVEN) == {
        "country": "DE", "age": 30, "new": True,
    }  # fmt: skip
    assert recorded(("tags", "gone"), GIVEN) is None
    assert recorded(("country",), None) is None


@given(st.dictionaries(st.text(max_size=5), st.one_of(st.text(), st.integers(), st.floats(), st.booleans(), st.none())))
def test_the_sink_accepts_every_recorded_attribute(attributes: dict[str, Any]) -> None:
    names = tuple(name for name in attributes if value_problem(name) is None)[:20]
    kept = recorded(names, attributes)
    row = EventRow(
        event_id="e", kind="exposure", unit_id="u", event_time=1, experiment="e", arm="a", config_version=1,
        attributes=kept,
    )  # fmt: skip
    assert row_problem(row) is None
    left_out = {name: value for name, value in attributes.items() if kept is None or name not in kept}
    assert all(value_problem(value) for name, value in left_out.items() if name in names)


def test_a_text_is_kept_up_to_its_longest() -> None:
    assert value_problem("x" * MAX_TEXT) is None
    assert value_problem("x" * (MAX_TEXT + 1)) == "is longer than 256 characters"


def test_a_assignment_carries_them_when_the_unit_is_enrolled_and_else_nothing(config: ExperimentConfig) -> None:
    config = msgspec.structs.replace(config, record=("country", "age"))
    assignment = prepare(PublishedExperiment(config, 1)).assign("u", GIVEN)
    assert (assignment.enrolled, assignment.attributes) == (True, {"country": "DE", "age": 30})
    for state, reason in (("paused", Reason.PAUSED), ("stopped", Reason.STOPPED)):
        other = prepare(PublishedExperiment(config, 1, state)).assign("u", GIVEN)  # type: ignore[arg-type]
        assert (other.reason, other.attributes) == (reason, None)
    silent = msgspec.structs.replace(config, record=())
    assert prepare(PublishedExperiment(silent, 1)).assign("u", GIVEN).attributes is None


def test_a_mapping_that_fails_costs_the_attributes_and_not_the_decision(config: ExperimentConfig) -> None:
    class Broken(Mapping[str, Any]):
        def __getitem__(self, key: str) -> Any:
            raise OSError("away")

        def __iter__(self) -> Iterator[str]:
            return iter(())

        def __len__(self) -> int:
            return 1

        def __contains__(self, key: object) -> bool:
            return True

    experiment = prepare(PublishedExperiment(msgspec.structs.replace(config, record=("country",)), 1))
    assert experiment.assign("u", Broken()) == experiment.assign("u")


@pytest.mark.parametrize("phase", [1, 2])
def test_from_the_assignment_to_the_table_of_first_exposures(
    store: ExperimentStore, config: ExperimentConfig, phase: int
) -> None:
    """The attributes of the first exposure stay when the unit changes; a new phase records them again."""
    config = msgspec.structs.replace(config, record=("plan",))
    store.publish(config, actor="ada", create=True)
    store.start(config.key, actor="ada", reason="test")
    now = 1_700_000_000_000_000
    for number, plan in enumerate(("free", "pro", "gold")):
        if number == 2 and phase == 2:
            store.new_phase(msgspec.structs.replace(config, salt="ranking-2"), actor="ada", reason="test")
        rows: list[EventRow] = []
        logger = ExposureLogger(rows.append, clock=lambda: now + number)  # noqa: B023  (closed within the round)
        assigner = Assigner(store.load, logger)
        assigner.refresh()
        assert assigner.expose(assigner.assign("u", "ranking", {"plan": plan, "email": "ann@example.org"}))
        assert logger.close() == 0
        rows = [msgspec.structs.replace(row, event_id=f"{number}") for row in rows]  # as in another day's window
        assert store.write_events(rows).written == 1
    with store.engine.connect() as connection:
        result = connection.exec_driver_sql("select unit_id, name, value from first_exposure_attribute").all()
        raw = connection.exec_driver_sql("select attributes from exposure order by event_id").scalars().all()
    assert result == [("u", "plan", "free" if phase == 1 else "gold")]
    assert raw == ['{"plan":"free"}', '{"plan":"pro"}', '{"plan":"gold"}']


def test_what_is_recorded_may_change_while_it_runs(store: ExperimentStore, config: ExperimentConfig) -> None:
    """The edit is safe because it moves no unit."""
    store.publish(config, actor="ada", create=True)
    store.start(config.key, actor="ada", reason="test")
    assert store.publish(msgspec.structs.replace(config, record=("plan",)), actor="ada") == 2


def test_a_config_from_before_a_field_was_added_is_still_the_same_version(
    store: ExperimentStore, config: ExperimentConfig
) -> None:
    """Publishing an unchanged file after an upgrade must not make a version, which would expose every unit again."""
    store.create_experiment(config.key, actor="ada")
    text = config.canonical_json().replace(b',"record":[]', b"")
    assert b"record" not in text
    values = (config.key, 1, text.decode(), hashlib.sha256(text).hexdigest(), config.salt, 1, "ada", 1)
    with store.engine.begin() as connection:
        connection.exec_driver_sql(
            "insert into experiment_version (experiment, version, config, sha256, salt, created_at, created_by, phase) "
            "values (?, ?, ?, ?, ?, ?, ?, ?)",
            values,
        )
    assert store.publish(config, actor="ada") == 1

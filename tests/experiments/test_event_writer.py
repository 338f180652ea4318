"""Any order and repetition of events leads to the same tables, and one bad row never costs its batch."""

import shutil
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, text
from sqlalchemy.exc import IntegrityError, OperationalError

from experiments.config import Arm, ExperimentConfig
from experiments.event_rows import EventRow
from experiments.store import ExperimentStore
from experiments.tables import MULTIPLE_ARMS

TABLES = ("exposure", "first_exposure", "event", "order_event", "sink_offset")
START = 1_700_000_000_000_000


@pytest.fixture
def live(store: ExperimentStore, config: ExperimentConfig) -> ExperimentStore:
    make_live(store, config)
    return store


def make_live(store: ExperimentStore, config: ExperimentConfig) -> None:
    store.create_experiment(config.key, actor="ada")
    store.publish(config, actor="ada")
    store.transition(config.key, "running", actor="ada", reason="test")


def exposure(event_id: str, unit: str, arm: str = "control", time: int = START, **changes: Any) -> EventRow:
    fields = {"experiment": "ranking", "config_version": 1, **changes}
    return EventRow(event_id=event_id, kind="exposure", unit_id=unit, event_time=time, arm=arm, **fields)


def click(event_id: str, unit: str = "u", **changes: Any) -> EventRow:
    fields = {"kind": "click", "product_id": "p1", "event_time": START, **changes}
    return EventRow(event_id=event_id, unit_id=unit, **fields)


def order(event_id: str, kind: str = "order", **changes: Any) -> EventRow:
    fields = {"order_id": "o1", "amount_minor": 1_999, "currency": "EUR", "event_time": START, **changes}
    return EventRow(event_id=event_id, kind=kind, unit_id="u", **fields)


def contents(store: ExperimentStore) -> dict[str, list[tuple[Any, ...]]]:
    with store.engine.connect() as connection:
        return {
            table: sorted(map(tuple, connection.execute(text(f"select * from {table}"))), key=repr) for table in TABLES
        }


def test_each_kind_arrives_in_its_table(live: ExperimentStore) -> None:
    rows = [
        exposure("e1", "u", attributes={"country": "DE", "age": 30}),
        click("c1", surface="search", query="red shoes"),
        click("i1", kind="impression"),
        click("s1", kind="save"),
        click("a1", kind="add_to_cart"),
        order("o1", product_id="p1"),
        order("r1", "refund", amount_minor=500),
        order("x1", "cancellation", amount_minor=200),
        order("y1", "chargeback", amount_minor=100),
    ]
    result = live.write_events(rows, {("events", 0): 9})
    assert (result.written, result.duplicate, result.rejected) == (9, 0, ())
    tables = contents(live)
    assert tables["exposure"] == [("e1", "ranking", 1, "control", "u", START, START, '{"age":30,"country":"DE"}')]
    assert tables["first_exposure"] == [("ranking", "u", "control", START, '{"age":30,"country":"DE"}')]
    assert ("c1", "click", "u", START, "p1", "search", "red shoes", START) in tables["event"]
    assert [row[1] for row in tables["event"]] == ["add_to_cart", "click", "impression", "save"]
    assert tables["order_event"] == [
        ("o1", "placed", "o1", "u", START, "p1", 1_999, "EUR", START),
        ("r1", "refunded", "o1", "u", START, None, -500, "EUR", START),
        ("x1", "cancelled", "o1", "u", START, None, -200, "EUR", START),
        ("y1", "charged_back", "o1", "u", START, None, -100, "EUR", START),
    ]
    assert live.offsets("events") == {0: 9}
    assert live.offsets("other") == {}


@pytest.mark.parametrize("kind", ["order", "refund"])
def test_an_order_with_amount_0_is_an_order(live: ExperimentStore, kind: str) -> None:
    assert live.write_events([order("o1", kind, amount_minor=0)]).written == 1
    assert [row[6] for row in contents(live)["order_event"]] == [0]


def test_a_replay_is_counted_and_changes_nothing(live: ExperimentStore) -> None:
    rows = [exposure("e1", "u"), click("c1"), click("c1"), order("o1")]
    first = live.write_events(rows, {("events", 0): 4})
    before = contents(live)
    again = live.write_events(rows, {("events", 0): 4})
    assert (first.written, first.duplicate) == (3, 1)
    assert (again.written, again.duplicate) == (0, 4)
    assert contents(live) == before


def test_the_first_exposure_is_the_earliest_in_any_order_of_arrival(live: ExperimentStore) -> None:
    live.write_events([exposure("late", "u", time=START + 5)])
    live.write_events([exposure("early", "u", time=START - 5), exposure("middle", "u")])
    assert contents(live)["first_exposure"] == [("ranking", "u", "control", START - 5, "{}")]


@pytest.mark.parametrize("one_batch", [True, False])
def test_attributes_are_those_of_the_first_exposure_in_any_order_of_arrival(
    live: ExperimentStore, one_batch: bool
) -> None:
    """Later attributes are no covariates, not even for a missing one: the treatment may have changed them."""
    rows = [
        exposure("late", "u", time=START + 5, attributes={"plan": "pro"}),
        exposure("early", "u", time=START - 5, attributes={"plan": "free", "country": "DE"}),
        exposure("middle", "u", attributes={"plan": "trial", "age": 30}),
        exposure("untold", "v", time=START - 5),
        exposure("told", "v", attributes={"plan": "pro"}),
    ]
    for batch in [rows] if one_batch else [[row] for row in rows]:
        live.write_events(batch)
    assert contents(live)["first_exposure"] == [
        ("ranking", "u", "control", START - 5, '{"country":"DE","plan":"free"}'),
        ("ranking", "v", "control", START - 5, "{}"),
    ]


@pytest.mark.parametrize("one_batch", [True, False])
def test_a_unit_in_two_arms_is_marked_forever(live: ExperimentStore, one_batch: bool) -> None:
    rows = [
        exposure("a", "u", time=START + 2),
        exposure("b", "u", "treatment", START + 1),
        exposure("c", "u", "control", START),
    ]
    for batch in [rows] if one_batch else [[row] for row in rows]:
        live.write_events(batch)
    assert contents(live)["first_exposure"] == [("ranking", "u", MULTIPLE_ARMS, START, "{}")]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (exposure("x", "u", experiment="nobody"), "experiment 'nobody' has no published version 1"),
        (exposure("x", "u", config_version=2), "experiment 'ranking' has no published version 2"),
        (exposure("x", "u", "third"), "version 1 of experiment 'ranking' has no arm 'third'"),
        (exposure("x", "u", MULTIPLE_ARMS), "has no arm '__multiple__'"),
        (exposure("x", "u", experiment=None), "exposure without experiment"),
        (exposure("x", "u", config_version=2**70), "has no published version"),
        (exposure("x", "u", experiment="ran\0king"), "experiment holds a NUL"),
        (exposure("x", ""), "unit_id: unit_missing"),
        (click("x", "u\0"), "unit_id: unit_has_nul"),
        (click("x", "u" * 1_025), "unit_id: unit_too_long"),
        (click("x", "\ud800"), "unit_id: unit_not_unicode"),
        (click(""), "event_id is empty"),
        (click("x" * 1_025), "event_id is longer than 1024 bytes"),
        (click("x", query="red\0shoes"), "query holds a NUL"),
        (click("x", query="\udfff"), "query holds a lone surrogate"),
        (click("x", product_id=None), "click without product_id"),
        (click("x", event_time=-1), "event_time -1"),
        (click("x", event_time=2**63), "event_time 9223372036854775808"),
        (click("x", kind="stare"), "kind 'stare' is not known"),
        (exposure("x", "u", attributes={"tags": ["new"]}), "attribute 'tags' is a list"),
        (exposure("x", "u", attributes={"age": 2**63}), "attribute 'age' is an integer of more than 64 bits"),
        (exposure("x", "u", attributes={"score": float("nan")}), "attribute 'score' is not a finite number"),
        (exposure("x", "u", attributes={"plan": "a\0"}), "attribute 'plan' holds a NUL"),
        (exposure("x", "u", attributes={"\ud800": 1}), "holds a lone surrogate"),
        (exposure("x", "u", attributes={"plan": "x" * 257}), "attribute 'plan' is longer than 256 characters"),
        (exposure("x", "u", attributes={str(n): n for n in range(21)}), "21 attributes; an exposure has at most 20"),
        (order("x", order_id=None), "order without order_id"),
        (order("x", "refund", amount_minor=-5), "amount_minor of 0 or more"),
        (order("x", amount_minor=2**63), "amount_minor of 0 or more"),
        (order("x", currency="eur"), "currency 'eur'"),
        (order("x", currency=None), "currency None"),
    ],
)
def test_a_row_that_no_table_can_store_is_returned_and_the_rest_is_written(
    live: ExperimentStore, row: EventRow, reason: str
) -> None:
    result = live.write_events([click("before"), row, click("after")], {("events", 1): 3})
    (rejected,) = result.rejected
    assert (rejected.index, rejected.row) == (1, row)
    assert reason in rejected.reason
    assert (result.written, result.duplicate) == (2, 0)
    tables = contents(live)
    assert [row[0] for row in tables["event"]] == ["after", "before"]
    assert tables["exposure"] == tables["first_exposure"] == tables["order_event"] == []
    assert live.offsets("events") == {1: 3}


def test_a_version_that_is_published_later_is_accepted_at_once(live: ExperimentStore, config: ExperimentConfig) -> None:
    """Known versions are cached; unknown ones are looked up again."""
    row = exposure("x", "u", config_version=2)
    assert len(live.write_events([row]).rejected) == 1
    live.publish(msgspec.structs.replace(config, description="second"), actor="ada")
    assert live.write_events([row]).written == 1


def test_rows_and_offsets_are_written_together_or_not_at_all(live: ExperimentStore) -> None:
    before = contents(live)
    with pytest.raises(IntegrityError, match="next_offset"):  # an offset that the database refuses
        live.write_events([exposure("e1", "u"), click("c1"), order("o1")], {("events", 0): -1})
    assert contents(live) == before


def test_an_offset_never_decreases(live: ExperimentStore) -> None:
    live.write_events([], {("events", 0): 9, ("events", 1): 2})
    live.write_events([], {("events", 0): 5, ("events", 1): 4})
    assert live.offsets("events") == {0: 9, 1: 4}


def test_each_log_has_its_own_offsets_which_can_be_forgotten(live: ExperimentStore) -> None:
    """Another cluster, or a topic that was created again, begins at its own start."""
    live.write_events([], {("events", 0): 9, ("events", 1): 2}, "old")
    assert live.offsets("events", "new") == {}
    live.write_events([], {("events", 0): 5}, "new")
    live.forget_offsets("events", "old", [0])
    assert (live.offsets("events", "old"), live.offsets("events", "new")) == ({1: 2}, {0: 5})


def test_rows_that_would_be_rejected_are_listed_without_a_lock(live: ExperimentStore) -> None:
    rows = [click("c1"), exposure("x", "u", "third"), click("", "u")]
    rejected = live.rejected(rows)
    assert [each.index for each in rejected] == [1, 2]
    with live.engine.connect() as other:
        other.exec_driver_sql("rollback")
        other.exec_driver_sql("pragma busy_timeout = 0")
        other.exec_driver_sql("begin immediate")  # raises when another connection holds the write lock
    assert live.write_events(rows).rejected == rejected


UNITS, ARMS = [f"u{i}" for i in range(4)], ["control", "treatment"]


def row_of(seed: tuple[int, int, int, int]) -> EventRow:
    """A row whose content depends only on its id, as in a deterministic event."""
    kind, unit, arm, time = seed
    name = "-".join(map(str, seed))
    if kind == 0:
        # Other attributes at the same instant, or none: still one answer.
        attributes = [None, {"arm": ARMS[arm]}, {"time": time}][(arm + time) % 3]
        return exposure(name, UNITS[unit], ARMS[arm], START + time, attributes=attributes)
    if kind == 1:
        return click(name, UNITS[unit], event_time=START + time)
    return order(name, ["order", "refund"][arm], event_time=START + time)


rows = st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 1), st.integers(0, 5)).map(row_of)
batches = st.lists(st.lists(rows, max_size=8), min_size=1, max_size=6)


@settings(max_examples=25, deadline=None)
@given(batches=batches, data=st.data())
def test_any_order_and_repetition_of_batches_gives_the_same_tables(
    tmp_path_factory: pytest.TempPathFactory,
    empty_database: Path,
    batches: list[list[EventRow]],
    data: st.DataObject,
) -> None:
    numbered = list(enumerate(batches))
    repeated = numbered + data.draw(st.lists(st.sampled_from(numbered), max_size=4))
    shuffled = data.draw(st.permutations(repeated))
    results = []
    for order_of_arrival in (numbered, shuffled):
        path = shutil.copy(empty_database, tmp_path_factory.mktemp("sink"))
        engine = create_engine(f"sqlite:///{path}")
        store = ExperimentStore(engine, clock=lambda: START)
        make_live(store, CONFIG)
        written = 0
        for number, batch in order_of_arrival:
            result = store.write_events(batch, {("events", number % 2): number + 1})
            assert result.written + result.duplicate == len(batch)
            written += result.written
        assert written == len({row.event_id for batch in batches for row in batch})
        results.append(contents(store))
        engine.dispose()
    assert results[0] == results[1]


CONFIG = ExperimentConfig(
    key="ranking",
    salt="ranking-1",
    coverage=10_000,
    arms=tuple(Arm(arm, 5_000) for arm in ARMS),
    control="control",
)


def test_two_sinks_that_write_the_same_rows_at_once_lose_and_double_nothing(
    live: ExperimentStore, tmp_path: Path
) -> None:
    batch = [exposure(f"e{i}", f"u{i % 50}") for i in range(200)] + [click(f"c{i}") for i in range(200)]
    engine = create_engine(f"sqlite:///{tmp_path / 'experiments.db'}")
    stores, results, errors = [live, ExperimentStore(engine)], [], []

    def work(store: ExperimentStore) -> None:
        try:
            results.extend(store.write_events(batch[i : i + 40]) for i in range(0, 400, 40))
        except OperationalError as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    engine.dispose()
    assert not errors
    assert (sum(r.written for r in results), sum(r.duplicate for r in results)) == (400, 400)
    assert {table: len(rows) for table, rows in contents(live).items()} == {
        "exposure": 200, "first_exposure": 50, "event": 200, "order_event": 0, "sink_offset": 0,
    }  # fmt: skip

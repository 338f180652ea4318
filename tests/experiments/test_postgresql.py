"""PostgreSQL agrees with the vector file, and writes the same rows as SQLite. Needs its programs."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import IntegrityError

from experiments import assignment_vectors, conformance
from experiments.config import ExperimentConfig
from experiments.errors import ConflictError, TransitionError
from experiments.event_rows import EventRow
from experiments.store import ExperimentStore

pytestmark = pytest.mark.integration


def test_postgresql_gives_the_draws_of_the_vector_file(postgresql: Callable[[], Engine]) -> None:
    (outcome,) = (
        o for o in conformance.check(assignment_vectors.load(), postgresql()) if o.implementation == "PostgreSQL"
    )
    assert outcome.absent is None
    assert outcome.checked > 50
    assert outcome.wrong == ()


def row(kind: str, number: int, unit: str, **changes: Any) -> EventRow:
    fields: dict[str, Any] = {"event_id": f"{kind}{number}", "kind": kind, "unit_id": unit, "event_time": number}
    if kind == "exposure":
        attributes = {"é": "\t\\N", "n": number, "Z": True} if number % 3 else None
        fields |= {"experiment": "ranking", "config_version": 1, "arm": "control", "attributes": attributes}
    elif kind == "order":
        fields |= {"order_id": f"o{number}", "amount_minor": number, "currency": "EUR"}
    else:
        fields |= {"product_id": "p", "surface": None, "query": "a\tb\\N\n, \"x\" 'y' {z} é 😀 \\."}
    return EventRow(**(fields | changes))


def contents(engine: Engine) -> dict[str, list[tuple[Any, ...]]]:
    names = ("exposure", "first_exposure", "event", "order_event", "sink_offset")
    with engine.connect() as connection:
        return {name: sorted(map(tuple, connection.execute(text(f"select * from {name}"))), key=repr) for name in names}


def test_rows_that_are_copied_are_those_that_sqlite_inserts_one_by_one(
    postgresql: Callable[[], Engine], tmp_path: Path, config: ExperimentConfig
) -> None:
    """Duplicates within a batch and between batches, second arms, texts that COPY has to escape, in any repetition."""
    batches = [
        [row("exposure", n, f"u{n % 7}", arm=("control", "treatment")[n % 5 == 0]) for n in range(40)],
        [row(kind, n, f"u{n}") for n in range(30) for kind in ("click", "order", "impression")],
        # At one instant with other attributes: `a` comes before `B` in a dictionary, and after it by code point.
        [row("exposure", n, f"w{n % 3}", event_time=7, attributes={"a": n}) for n in range(200, 210)],
        [row("exposure", n, f"w{n % 3}", event_time=7, attributes={"B": n}) for n in range(210, 220)],
        [row("exposure", n, f"u{n % 7}") for n in range(30, 60)] + [row("click", 1, "u1")] * 3,
        [],
        [row("order", n, "u", order_id="o\tb") for n in range(100, 103)] + [row("exposure", 99, "u", arm="third")],
    ]
    results, stored = [], []
    engines = [create_engine(f"sqlite:///{tmp_path / 'one.db'}"), postgresql()]
    for engine in engines:
        store = ExperimentStore(engine, clock=lambda: 5)
        store.create_all()
        store.publish(config, actor="ada", create=True)
        store.start("ranking", actor="ada", reason="test")
        written = [store.write_events(b, {("events", 0): n + 1}) for n, b in enumerate((*batches, *batches))]
        results.append([(r.written, r.duplicate, len(r.rejected)) for r in written])
        stored.append(contents(engine))
    engines[0].dispose()
    assert results[0] == results[1]
    assert stored[0] == stored[1]
    assert results[1][:7] == [(40, 0, 0), (90, 0, 0), (10, 0, 0), (10, 0, 0), (20, 13, 0), (0, 0, 0), (3, 0, 1)]


def test_copied_rows_and_their_offsets_are_written_together_or_not_at_all(
    postgresql: Callable[[], Engine], config: ExperimentConfig
) -> None:
    store = ExperimentStore(postgresql())
    store.create_all()
    store.publish(config, actor="ada", create=True)
    before = contents(store.engine)
    with pytest.raises(IntegrityError, match="next_offset"):  # an offset that the database refuses
        store.write_events([row("exposure", 1, "u"), row("click", 1, "u")], {("events", 0): -1})
    assert contents(store.engine) == before
    # The connection, and the table that COPY filled, are used again: nothing of the failed batch is left in it.
    assert store.write_events([row("click", 2, "u")], {("events", 0): 3}).written == 1
    assert len(contents(store.engine)["event"]) == 1


def test_one_of_several_concurrent_starts_succeeds(postgresql: Callable[[], Engine], config: ExperimentConfig) -> None:
    """Several stores start one draft at once: one succeeds, the others are refused, and the history has one row."""
    stores = [ExperimentStore(postgresql()) for _ in range(4)]
    stores[0].create_all()
    stores[0].publish(config, actor="ada", create=True)
    outcomes: list[str] = []

    def start(store: ExperimentStore) -> None:
        try:
            store.start("ranking", actor="ada", reason="test")
            outcomes.append("started")
        except (TransitionError, ConflictError):
            outcomes.append("refused")

    threads = [threading.Thread(target=start, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(outcomes) == ["refused", "refused", "refused", "started"]
    assert [each.state for each in stores[0].history("ranking")] == ["draft", "running"]

"""The comparison of the fault benchmark finds each kind of difference."""

from __future__ import annotations

import numpy as np
import pytest
from sqlalchemy import Engine, create_engine, text

from benchmarks._fault_comparison import (
    Observed,
    ProductState,
    dead_letter_copies,
    differing_events,
    differing_products,
)
from benchmarks._fault_stories import EventStory, Message, Story
from streaming.contracts import ProductOffer, ProductVector

VECTOR = np.eye(256, dtype=np.float32)[0]
STATE = ProductState(3, ({"title": "Lamp"}, ["a.png"], ["hash"], 100, "EUR", "in_stock"), "content", VECTOR)


def observed(**changes: object) -> Observed:
    """One product as expected, with changed fields of its state."""
    vector = ProductVector(
        id="p",
        version=3,
        model_version="1",
        content_hash="content",
        vector=ProductVector.pack(VECTOR),
        source_time=0,
    )
    offer = ProductOffer(id="p", version=3, amount_minor=100, currency="EUR", availability="in_stock", source_time=0)
    return Observed({"p": STATE._replace(**changes)}, {"p": vector}, {"p": offer})  # type: ignore[arg-type]


def test_equal_products_do_not_differ() -> None:
    assert differing_products({"p": STATE}, observed()) == (0, 0, 0)


@pytest.mark.parametrize("part", ["states", "vectors", "offers"])
def test_a_product_that_is_missing_anywhere_is_lost(part: str) -> None:
    assert differing_products({"p": STATE}, observed()._replace(**{part: {}})) == (1, 0, 0)


def test_a_product_that_should_be_deleted_is_lost() -> None:
    assert differing_products({}, observed()) == (1, 0, 0)


def test_an_older_version_is_stale() -> None:
    assert differing_products({"p": STATE}, observed(version=2)) == (0, 1, 0)


@pytest.mark.parametrize(
    "changes",
    [
        {"features": ({"title": "Chair"}, *STATE.features[1:])},
        {"content_hash": "other"},
        {"vector": np.eye(256, dtype=np.float32)[1]},
    ],
    ids=["features", "content hash", "vector"],
)
def test_other_content_is_wrong(changes: dict[str, object]) -> None:
    assert differing_products({"p": STATE}, observed(**changes)) == (0, 0, 1)


def test_an_offer_of_another_price_is_wrong() -> None:
    expected = STATE._replace(features=(*STATE.features[:-3], 200, "EUR", "in_stock"))
    seen = observed(features=expected.features)
    assert differing_products({"p": expected}, seen) == (0, 0, 1)


def test_dead_letters_are_counted_for_each_distinct_bad_message() -> None:
    one, two = Message(b"1", b"x", poison=True), Message(b"2", b"y", poison=True)
    letters = [(b"1", b"x"), (b"1", b"x"), (b"3", b"z")]
    assert sorted(dead_letter_copies([one, one, two], letters)) == [0, 2]


@pytest.fixture
def database() -> Engine:
    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        connection.execute(text("create table event (event_id text)"))
        connection.execute(text("create table order_event (event_id text, kind text, amount_minor integer)"))
    return engine


def store(database: Engine, story: EventStory) -> None:
    with database.begin() as connection:
        for id in story.clicks:
            connection.execute(text("insert into event values (:id)"), {"id": id})
        for id, (kind, amount) in story.money.items():
            connection.execute(
                text("insert into order_event values (:id, :kind, :amount)"),
                {"id": id, "kind": kind, "amount": amount},
            )


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        pytest.param("select 1", 0, id="nothing"),
        pytest.param("delete from event where event_id = (select min(event_id) from event)", 1, id="a missing click"),
        pytest.param("insert into event select min(event_id) from event", 1, id="a click twice"),
        pytest.param("insert into event values ('s-x')", 1, id="an unknown click"),
        pytest.param(
            "update order_event set amount_minor = 1 where event_id = (select min(event_id) from order_event)",
            1,
            id="another amount",
        ),
    ],
)
def test_each_wrong_event_is_counted(database: Engine, change: str, wrong: int) -> None:
    story = EventStory("s-", 100, seed=1)
    assert story.clicks
    assert story.money
    store(database, story)
    with database.begin() as connection:
        connection.execute(text(change))
    assert differing_events(database, story) == wrong


def test_the_streams_are_deterministic_and_hold_bad_messages() -> None:
    one, two = (Story("s-", 500, ["a.png", "b.png", "c.png"], seed=1, poison=0.05) for _ in range(2))
    assert one.messages == two.messages
    bad = [message for message in one.messages if message.poison]
    assert len(bad) > 10
    assert len({message.key for message in bad}) == len({message.value for message in bad}), "each kind is unique"

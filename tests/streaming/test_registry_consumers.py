"""The consumers with a schema registry: framed messages have the effect of bare ones, and nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from inference.retrieval import Filter, RetrievalIndex
from streaming.contracts import Event
from streaming.errors import ContractError, RegistryError
from streaming.events.sink import EventSink
from streaming.kafka.connection import TopicPartition
from streaming.kafka.producers import CatalogPublisher, EventPublisher
from streaming.kafka.schema_registry.client import SchemaRegistry
from streaming.kafka.schema_registry.codec import RegistryCodec, framed_id
from streaming.vectors.offers import offer_of
from streaming.vectors.publisher import OutgoingVector, embedding_publisher, offer_publisher
from tests.streaming.builders import NOW, Record, decode_update, price, record, update, vector_of
from tests.streaming.events.fakes import FakeDatabase
from tests.streaming.fakes import CompactedProducer
from tests.streaming.kafka.fakes import FakeProducer
from tests.streaming.schema_registry import Registry
from tests.streaming.vectors.builders import LAMP, vector_message
from tests.streaming.vectors.fakes import FakeBroker, follower_of
from tests.streaming.world import World

EVENT = Event(event_id="e", kind="click", unit_id="u7", event_time=NOW, product_id="p", surface="user")


@pytest.fixture
def server() -> Iterator[Registry]:
    with Registry() as registry:
        yield registry


@pytest.fixture(params=["json_schema", "avro"])
def codec(server: Registry, request: pytest.FixtureRequest) -> Iterator[RegistryCodec]:
    with SchemaRegistry(server.url) as client:
        yield RegistryCodec(client, request.param)


@pytest.fixture
def fresh(server: Registry) -> Iterator[RegistryCodec]:
    """A codec of another process, which knows no schema yet."""
    with SchemaRegistry(server.url) as client:
        yield RegistryCodec(client)


def framed(codec: RegistryCodec, id: str, version: int, **fields: object) -> Record:
    return record(codec.encode(update(id, version, **fields)), key=id.encode())


def test_framed_and_bare_updates_of_one_topic_have_the_same_effect(codec: RegistryCodec) -> None:
    bare, mixed = World(codec=codec), World(codec=codec)
    for world, first in (
        (bare, record(update("p1", 1, image_link="a"))),
        (mixed, framed(codec, "p1", 1, image_link="a")),
    ):
        assert world.process(first, update("p2", 1, price=price("5"))).dead_letters == []
    assert mixed.state() == bare.state()


def test_a_message_that_cannot_be_decoded_is_a_dead_letter_with_its_own_bytes(codec: RegistryCodec) -> None:
    world = World(codec=codec)
    other = record(codec.encode(EVENT), key=b"p1")
    unknown = record(b"\x00\x00\x00\x00\x63{}", key=b"p1")
    outcome = world.process(other, unknown, framed(codec, "p2", 1))
    assert [(letter.stage, letter.record) for letter in outcome.dead_letters] == [
        ("decode", other),
        ("decode", unknown),
    ]
    assert [letter.message[:30] for letter in outcome.dead_letters] == [
        "schema 1 belongs to the subjec",
        "the schema registry has no sch",
    ]
    assert list(world.store.views["text"]) == ["p2"]


def test_an_unreachable_registry_stops_the_batch_before_anything_is_written(
    codec: RegistryCodec, fresh: RegistryCodec, server: Registry
) -> None:
    """The loop retries the same batch: RegistryError is retryable."""
    world, first = World(codec=fresh), framed(codec, "p1", 1)
    server.down = True
    with pytest.raises(RegistryError):
        world.process(update("p0", 1), first)
    assert world.store.views["text"] == {}
    server.down = False
    assert world.process(update("p0", 1), first).dead_letters == []
    assert list(world.store.views["text"]) == ["p0", "p1"]


def test_events_are_decoded_in_the_same_way(codec: RegistryCodec, fresh: RegistryCodec, server: Registry) -> None:
    database, letters = FakeDatabase(), []
    sink = EventSink(database, letters.extend, "log", codec, lambda: NOW)  # type: ignore[arg-type]
    good, bad = Record("events", offset=4, value=codec.encode(EVENT)), Record("events", offset=5, value=b"\x00\x00")
    sink.handle({TopicPartition("events", 0): [good, bad]})
    assert list(database.rows) == ["e"]
    assert [letter.record for letter in letters] == [bad]
    assert database.written_offsets == {("events", 0): 6}
    server.down = True
    with pytest.raises(RegistryError):
        EventSink(database, letters.extend, "log", fresh, lambda: NOW).handle(  # type: ignore[arg-type]
            {TopicPartition("events", 0): [good._replace(offset=6)]}
        )
    assert database.written_offsets == {("events", 0): 6}, "nothing is skipped"


def test_publishers_write_the_wire_format(codec: RegistryCodec) -> None:
    producer = FakeProducer()
    producer.codec = codec
    with CatalogPublisher(producer) as updates, EventPublisher(producer) as events:  # type: ignore[arg-type]
        updates.send(update("p", 1))
        events.send(EVENT)
    assert [framed_id(value) for _, _, value, _ in producer.sent] == [1, 2]
    assert decode_update(producer.sent[0][2], codec=codec) == update("p", 1)


def test_a_follower_reads_framed_vectors_and_offers_and_loses_none_while_the_registry_is_unreachable(
    codec: RegistryCodec, fresh: RegistryCodec, server: Registry
) -> None:
    vectors, offers = CompactedProducer(), CompactedProducer()
    embedding_publisher(vectors, codec)(
        [OutgoingVector("1", "lamp", 7, vector_message("lamp", 7)), OutgoingVector("1", "gone", 8, None)]
    )
    offer_publisher(offers, codec)([offer_of(LAMP, source_time=123)])
    assert {framed_id(sent[2]) for sent in (vectors.sent[0], offers.sent[0])} == {1, 2}
    broker = FakeBroker()
    broker.codec = fresh
    for topic, key, value, headers in [*vectors.sent, *offers.sent]:
        broker.logs[TopicPartition(topic, 0)].append((key, value, list(headers.items())))
    index = RetrievalIndex("1")
    server.down = True
    with follower_of(broker, index) as follower:
        assert not follower.catch_up(0.3)
        assert len(index) == 0
        server.down = False
        assert follower.catch_up(10)
    assert len(index) == 1
    (result,) = index.search(vector_of("lamp", 7)[None], 1, where=Filter(categories=("Home > Lamps",)))
    assert result.ids == ["lamp"]


def test_without_a_registry_a_framed_message_is_refused_with_the_missing_setting(codec: RegistryCodec) -> None:
    with pytest.raises(ContractError, match=r"wire format of a schema registry .*SAGELIFT_SCHEMA_REGISTRY__URL"):
        decode_update(b"\x00\x00\x00\x00\x01{}", now=NOW)

"""The consumers on a real broker where a schema registry is configured; and images that changed behind their links.

The registry is the tests' own server of Confluent's interface (tests/streaming/schema_registry.py).
"""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fastavro
import pytest
from PIL import Image
from sqlalchemy import text
from typer.testing import CliRunner

from inference.retrieval import RetrievalIndex
from sagelift.commands.cli import app
from sagelift.observability.health import HealthState
from sagelift.observability.monitor import Monitor
from sagelift.services import EVENTS_GROUP, Services
from sagelift.settings import load_settings
from sagelift.stack.kafka import KafkaBroker
from sagelift.stack.triton import TritonServer
from sagelift.workers import catalog_worker, events_worker
from streaming.contracts import Event, ProductUpdate
from streaming.kafka.connection import TopicPartition
from streaming.kafka.producers import EventPublisher
from streaming.kafka.schema_registry.codec import framed_id
from streaming.kafka.schema_registry.schemas import avro_schema
from streaming.kafka.topic_admin import ensure_topics
from streaming.kafka.topics import CATALOG_UPDATES, EVENTS, PRODUCT_EMBEDDINGS, PRODUCT_OFFERS
from streaming.vectors.follower import IndexFollower
from tests.integration.shop import NOW, Shop, consuming, upsert
from tests.streaming.schema_registry import Registry
from tests.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    with Registry(("ada", "hunter2")) as server:
        yield server


@pytest.fixture(scope="module")
def shop(
    tmp_path_factory: pytest.TempPathFactory,
    cache: Path,
    triton: TritonServer,
    model_repository: Path,
    registry: Registry,
) -> Iterator[Shop]:
    """A shop with a broker of its own: the readers of other tests have no registry."""
    state = tmp_path_factory.mktemp("shop")
    with KafkaBroker(tmp_path_factory.mktemp("kafka"), cache) as broker:
        shop = Shop(state, broker, triton, model_repository)
        access = {"url": registry.url, "username": "ada", "password": "hunter2", "format": "avro"}
        shop.settings = load_settings(**{**shop.settings.model_dump(), "schema_registry": access})
        shop.services.close()
        shop.services = Services(shop.settings)
        shop.services.open_live_embedder()
        ensure_topics(shop.services.kafka)
        yield shop
        shop.services.close()


def values(shop: Shop, topic: str) -> list[bytes]:
    consumer = shop.services.kafka.consumer()
    try:
        partitions = [TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic))]
        consumer.assign(partitions)
        ends, result = consumer.end_offsets(partitions), []
        while any(consumer.position(tp) < end for tp, end in ends.items()):
            result += [record.value for rows in consumer.poll(500).values() for record in rows]
    finally:
        consumer.close()
    return result


def test_avro_updates_are_read_and_avro_vectors_are_written(shop: Shop, registry: Registry) -> None:
    """From our producer and another whose schema has one more field; an unreadable message is a dead letter."""
    theirs: dict[str, Any] = avro_schema(ProductUpdate) | {"namespace": "com.acme"}
    theirs["fields"] = [{"name": "shelf", "type": "string"}, *theirs["fields"]]
    number = registry.add(f"{CATALOG_UPDATES}-value", theirs)
    out = io.BytesIO()
    row = {"id": "other", "version": 1, "event_time": NOW, "title": "oak table", "shelf": "B"}
    fastavro.schemaless_writer(out, fastavro.parse_schema(theirs), row)
    poison = b"\x00\x00\x00\x03\xe7{}"
    producer = shop.services.kafka.producer()
    producer.send(CATALOG_UPDATES, key=b"other", value=b"\x00" + number.to_bytes(4, "big") + out.getvalue())
    producer.send(CATALOG_UPDATES, key=b"poison", value=poison)
    producer.flush(10)
    producer.close()
    shop.publish(upsert("ours", 1, "pine lamp", cents=1234))
    index = RetrievalIndex("1")
    with consuming(shop), IndexFollower(shop.services.kafka, index) as follower:
        shop.caught_up()
        assert follower.catch_up(20)
    stored = shop.services.features.read_features(["other", "ours"])
    assert (stored["other"].text["title"], stored["ours"].amount_minor) == ("oak table", 1234)
    assert "other" in index
    assert "ours" in index
    assert [letter.value for letter in shop.dead_letters(CATALOG_UPDATES, "decode")] == [poison]
    for topic in (PRODUCT_EMBEDDINGS, PRODUCT_OFFERS):
        written = values(shop, topic)
        assert len(written) == 2
        assert {framed_id(value) for value in written} == {registry.subjects[f"{topic}-value"][0]}


def test_events_in_avro_become_rows(shop: Shop) -> None:
    event = Event(
        event_id="e1", kind="order", unit_id="u", event_time=NOW, order_id="o", amount_minor=5, currency="EUR"
    )
    with EventPublisher(shop.services.kafka) as publisher:
        publisher.send(event)
    assert framed_id(values(shop, EVENTS)[0])
    with consuming(shop, events_worker):
        shop.caught_up(EVENTS_GROUP, EVENTS)
    with shop.services.database.connect() as connection:
        assert connection.execute(text("select event_id from order_event")).scalars().all() == ["e1"]


def test_the_consumer_waits_for_an_unreachable_registry(shop: Shop, registry: Registry) -> None:
    """The consumer reports what it waits for, commits nothing and continues by itself."""
    shop.publish(upsert("late", 1, "blue coat"))
    registry.down = True
    stop = threading.Event()
    monitor = Monitor("catalog", stop)
    thread = threading.Thread(target=catalog_worker, args=(shop.settings, stop, monitor))
    thread.start()
    try:
        wait_until(lambda: monitor.health().state is HealthState.BACKING_OFF, "the consumer to say that it waits")
        assert "schema registry answers 503" in monitor.health().reason
        assert shop.lag() == 1
        registry.down = False
        shop.caught_up()
    finally:
        registry.down = False
        stop.set()
        thread.join(30)
    assert shop.services.features.read_features(["late"])["late"].text["title"] == "blue coat"


def test_an_image_that_changed_behind_its_link_is_embedded_on_request(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = shop.settings.state / "picture.png"
    Image.new("RGB", (64, 48), (220, 30, 30)).save(picture)
    for name, value in shop.settings.environment().items():
        monkeypatch.setenv(name, value)
    with consuming(shop):
        shop.publish(upsert("img", 1, "wool coat", str(picture)))
        shop.caught_up()
        before = shop.services.features.read_embeddings("1", ["img"])["img"]
        Image.new("RGB", (64, 48), (30, 30, 220)).save(picture)
        shop.publish(upsert("img", 2, "wool coat", str(picture)))
        shop.caught_up()
        assert shop.services.features.read_embeddings("1", ["img"])["img"].content_hash == before.content_hash
        result = CliRunner().invoke(app, ["catalog", "refresh-images", "img"], catch_exceptions=False)
        assert result.output == "requested new images for 1 product\n"
        shop.caught_up()
    after = shop.services.features.read_embeddings("1", ["img"])["img"]
    assert after.content_hash != before.content_hash
    assert after.version == 2

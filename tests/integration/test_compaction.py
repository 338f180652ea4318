"""The compacted topic on a real broker, after a real compaction."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from kafka.admin import ConfigResource, ConfigResourceType

from inference.retrieval import RetrievalIndex
from sagelift.stack.kafka import KafkaBroker
from streaming.contracts import ProductVector
from streaming.kafka.connection import Connection, KafkaConsumer, TopicPartition
from streaming.kafka.topic_admin import ensure_topics
from streaming.kafka.topics import PRODUCT_EMBEDDINGS
from streaming.vectors.follower import IndexFollower
from streaming.vectors.publisher import OutgoingVector, embedding_publisher
from tests.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

PRODUCTS, VERSIONS, PARTITIONS = 40, 5, 8


@pytest.fixture
def connection(cache: Path, tmp_path: Path) -> Iterator[Connection]:
    """A broker of its own, whose log cleaner starts at once."""
    with KafkaBroker(tmp_path / "kafka", cache) as broker:
        yield Connection(broker.bootstrap)


def test_after_compaction_a_new_reader_rebuilds_exactly_the_live_catalogue(connection: Connection) -> None:
    ensure_topics(connection)
    clean_at_once(connection)
    vectors = np.random.default_rng(0).normal(size=(VERSIONS, PRODUCTS, 256)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    with closing(connection.producer()) as producer, closing(connection.consumer()) as consumer:
        publish = embedding_publisher(producer, connection.codec)
        for version in range(VERSIONS):
            publish([record(n, version + 1, vectors[version, n]) for n in range(PRODUCTS)])
        publish([OutgoingVector("1", f"p{n}", VERSIONS + 1, None) for n in range(0, PRODUCTS, 4)])
        sent = PRODUCTS * VERSIONS + PRODUCTS // 4

        def compacted() -> bool:
            nonlocal sent
            # Count before sending: the cleaner had the pause for what was sent last time.
            if records_on(consumer) <= PRODUCTS + 2 * PARTITIONS:
                return True
            # The segment that is written to is never compacted: each partition needs a record now and then.
            for partition in range(PARTITIONS):
                producer.send(PRODUCT_EMBEDDINGS, partition=partition, key=b"2/other", value=None)
            producer.flush(10)
            sent += PARTITIONS
            return False

        wait_until(compacted, "the broker to compact", timeout_s=120, pause_s=0.3)
        assert records_on(consumer) < sent / 2, "most records are gone"
    index = RetrievalIndex("1")
    with IndexFollower(connection, index) as follower:
        assert follower.catch_up(30)
    live = [n for n in range(PRODUCTS) if n % 4]
    assert len(index) == len(live)
    newest = vectors[-1, live]
    assert [result.ids for result in index.search(newest, 1)] == [[f"p{n}"] for n in live]
    assert min(result.scores[0] for result in index.search(newest, 1)) > 0.99, "the newest vectors, not older ones"


def record(n: int, version: int, vector: np.ndarray) -> OutgoingVector:
    message = ProductVector(
        id=f"p{n}",
        version=version,
        model_version="1",
        content_hash=f"{n}-{version}",
        vector=ProductVector.pack(vector),
        source_time=0,
    )
    return OutgoingVector("1", f"p{n}", version, message)


def clean_at_once(connection: Connection) -> None:
    """Small segments that are always cleaned, by a cleaner without pauses; all other settings are ours."""
    with closing(connection.admin()) as admin:
        admin.alter_configs(
            [
                ConfigResource(
                    ConfigResourceType.TOPIC,
                    PRODUCT_EMBEDDINGS,
                    configs={"segment.ms": "100", "min.cleanable.dirty.ratio": "0.001"},
                ),
                ConfigResource(ConfigResourceType.BROKER, "1", configs={"log.cleaner.backoff.ms": "100"}),
            ]
        )


def records_on(consumer: KafkaConsumer) -> int:
    """One consumer for all counts: with one for each, kafka-python once left a socket open."""
    partitions = [TopicPartition(PRODUCT_EMBEDDINGS, p) for p in consumer.partitions_for_topic(PRODUCT_EMBEDDINGS)]
    consumer.assign(partitions)
    consumer.seek_to_beginning(*partitions)
    ends = consumer.end_offsets(partitions)
    count = 0
    while any(consumer.position(tp) < end for tp, end in ends.items()):
        count += sum(map(len, consumer.poll(300).values()))
    return count

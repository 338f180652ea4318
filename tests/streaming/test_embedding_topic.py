"""`product.embeddings`: what is written, and an index that follows it whatever stands on the topic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from kafka.errors import CorruptRecordError, KafkaConnectionError, KafkaTimeoutError

from inference.retrieval import RetrievalIndex
from streaming.contracts import ProductVector, decode_vector, encode
from streaming.embedding_topic import EmbeddingPublisher, IndexFollower
from streaming.errors import BrokerError, TopicError
from streaming.kafka import TopicPartition
from tests.streaming.fakes import Record, vector_of

P0 = TopicPartition("product.embeddings", 0)


def message(id: str, version: int, model: str = "1") -> ProductVector:
    return ProductVector(
        id=id,
        version=version,
        model_version=model,
        content_hash="h",
        vector=ProductVector.pack(vector_of(id, version)),
        source_time=1000,
    )


def on_topic(id: str, version: int, vector: ProductVector | None, model: str = "1") -> tuple[Any, ...]:
    return f"{model}/{id}".encode(), vector and encode(vector), [("sagelift-version", str(version).encode())]


class FakeProducer:
    def __init__(self, fail: Exception | None = None) -> None:
        self.fail, self.sent = fail, []  # type: ignore[var-annotated]

    def send(self, topic: str, *, key: bytes, value: bytes | None, headers: Any) -> FakeProducer:
        self.sent.append((topic, key, value, dict(headers)))
        return self

    def flush(self, timeout: float) -> None:
        if self.fail:
            raise self.fail

    def get(self, timeout: float) -> None: ...


def test_vectors_and_deletions_go_under_model_and_product_with_their_version() -> None:
    producer = FakeProducer()
    EmbeddingPublisher(producer)([("1", "a/b", 7, message("a/b", 7)), ("1", "c", 8, None)])
    (topic, key, value, _), (_, gone, nothing, headers) = producer.sent
    assert (topic, key, gone, nothing) == ("product.embeddings", b"1/a/b", b"1/c", None)
    assert decode_vector(value) == message("a/b", 7)
    assert headers["sagelift-version"] == b"8"


def test_embeddings_that_the_broker_does_not_take_are_an_error() -> None:
    with pytest.raises(BrokerError, match="1 embeddings were not taken: KafkaTimeoutError"):
        EmbeddingPublisher(FakeProducer(KafkaTimeoutError()))([("1", "a", 1, None)])


class FakeConsumer:
    """Both the connection and its consumer: one partition, read in twos, with failures at some offsets."""

    def __init__(self, log: Sequence[tuple[Any, ...]], failures: dict[int, list[Exception]] | None = None) -> None:
        self.log, self.failures, self.at = list(log), failures or {}, 0
        self.closed = False

    def consumer(self, **_: Any) -> FakeConsumer:
        return self

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        return {0} if self.log is not None else None

    def assign(self, partitions: Any) -> None: ...

    def seek_to_beginning(self, *partitions: Any) -> None: ...

    def poll(self, timeout_ms: int) -> dict[TopicPartition, list[Record]]:
        if self.failures.get(self.at):
            raise self.failures[self.at].pop(0)
        start, self.at = self.at, min(len(self.log), self.at + 1)
        rows = self.log[start : self.at]
        return {P0: [Record(P0.topic, 0, start, 0, k, v, h) for k, v, h in rows]} if rows else {}

    def end_offsets(self, partitions: Any) -> dict[TopicPartition, int]:
        return {P0: len(self.log)}

    def position(self, tp: TopicPartition) -> int:
        return self.at

    def seek(self, tp: TopicPartition, offset: int) -> None:
        self.at = offset

    def close(self, timeout_ms: int = 0) -> None:
        self.closed = True


def follow(consumer: FakeConsumer, applied: list[str] | None = None) -> RetrievalIndex:
    index = RetrievalIndex("1")
    seen: list[str] = [] if applied is None else applied
    with IndexFollower(consumer, index, lambda id, ms: seen.append(id)) as follower:  # type: ignore[arg-type]
        assert follower.catch_up(10)
    assert consumer.closed
    return index


def test_the_newest_vector_of_each_product_of_the_model_is_in_the_index() -> None:
    applied: list[str] = []
    index = follow(
        FakeConsumer(
            [
                on_topic("a", 2, message("a", 2)),
                on_topic("a", 1, message("a", 1)),
                on_topic("b", 1, message("b", 1)),
                on_topic("c", 1, message("c", 1, "2"), "2"),
                on_topic("b", 2, None),
                on_topic("b", 1, message("b", 1)),
            ]
        ),
        applied,
    )
    assert ("a" in index, "b" in index, "c" in index) == (True, False, False)
    np.testing.assert_allclose(index.vectors(["a"])["a"], vector_of("a", 2), atol=2e-3)
    assert applied == ["a", "b"], "old vectors and other models are nobody's news"


BAD_RECORDS = [
    (None, b"{}", []),
    (b"\xff/a", b"{}", []),
    (b"1/a", b"{", []),
    (b"1/a", None, []),
    (b"1/a", None, [("sagelift-version", b"seven")]),
    (b"1/other", encode(message("a", 1)), []),
    (b"1/a", encode(message("a", 1, "2")), []),
    (b"1/a", encode(message("a", 1)).replace(b'"vector":"', b'"vector":"!'), []),
]


@pytest.mark.parametrize("bad", BAD_RECORDS, ids=str)
def test_a_record_that_is_none_is_skipped(bad: tuple[Any, ...]) -> None:
    index = follow(FakeConsumer([bad, on_topic("z", 1, message("z", 1))]))
    assert ("z" in index, "a" in index) == (True, False)


def test_damage_on_the_brokers_disk_and_a_broker_that_is_away_for_a_moment_are_got_over() -> None:
    log = [on_topic(id, 1, message(id, 1)) for id in "abc"]
    crc = CorruptRecordError(f"Record batch for partition {P0} at offset 1 failed crc check")
    index = follow(FakeConsumer(log, {1: [crc], 2: [KafkaConnectionError("away")]}))
    assert ["a" in index, "b" in index, "c" in index] == [True, False, True]


def test_a_follower_that_died_says_so_at_once() -> None:
    consumer = FakeConsumer([], {0: [ZeroDivisionError()]})
    with IndexFollower(consumer, RetrievalIndex("1")) as follower:  # type: ignore[arg-type]
        assert not follower.catch_up(20)


def test_a_topic_that_is_not_there_is_named() -> None:
    consumer = FakeConsumer([])
    consumer.partitions_for_topic = lambda topic: None  # type: ignore[method-assign]
    with pytest.raises(TopicError, match=r"product\.embeddings does not exist"):
        IndexFollower(consumer, RetrievalIndex("1")).start()  # type: ignore[arg-type]
    assert consumer.closed


def test_a_broker_that_fails_while_the_follower_starts_leaves_no_consumer_open() -> None:
    consumer = FakeConsumer([])

    def away(*partitions: Any) -> None:
        raise KafkaConnectionError("away")

    consumer.seek_to_beginning = away  # type: ignore[method-assign]
    with pytest.raises(BrokerError, match=r"product\.embeddings cannot be read: KafkaConnectionError"):
        IndexFollower(consumer, RetrievalIndex("1")).start()  # type: ignore[arg-type]
    assert consumer.closed


def test_a_follower_that_was_never_started_holds_nothing_and_can_be_closed() -> None:
    consumer = FakeConsumer([])
    opened: list[FakeConsumer] = []
    consumer.consumer = lambda **_: opened.append(consumer) or consumer  # type: ignore[method-assign,func-returns-value]
    follower = IndexFollower(consumer, RetrievalIndex("1"))  # type: ignore[arg-type]
    follower.close()
    assert [c for c in opened if not c.closed] == []

"""`product.embeddings`: what is written, and an index that follows it whatever stands on the topic."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from kafka.errors import CorruptRecordError, KafkaConnectionError, KafkaTimeoutError

from inference.retrieval import Filter, RetrievalIndex
from streaming.contracts import ProductOffer, ProductVector
from streaming.errors import BrokerError, TopicError
from streaming.kafka.codec import JSON, Codec
from streaming.kafka.connection import TopicPartition
from streaming.vectors.embedding_topic import EmbeddingPublisher, IndexFollower, end_position
from tests.streaming.builders import Record, vector_of
from tests.streaming.fakes import CompactedProducer

P0 = TopicPartition("product.embeddings", 0)
O0 = TopicPartition("product.offers", 0)
DAY = 86_400_000


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
    return f"{model}/{id}".encode(), vector and JSON.encode(vector), [("sagelift-version", str(version).encode())]


def test_vectors_and_deletions_go_under_model_and_product_with_their_version() -> None:
    producer = CompactedProducer()
    EmbeddingPublisher(producer, JSON)([("1", "a/b", 7, message("a/b", 7)), ("1", "c", 8, None)])
    (topic, key, value, _), (_, gone, nothing, headers) = producer.sent
    assert (topic, key, gone, nothing) == ("product.embeddings", b"1/a/b", b"1/c", None)
    assert JSON.decode(ProductVector, value) == message("a/b", 7)
    assert headers["sagelift-version"] == b"8"


def test_embeddings_that_the_broker_does_not_take_are_an_error() -> None:
    with pytest.raises(BrokerError, match=r"1 records of product\.embeddings were not accepted: KafkaTimeoutError"):
        EmbeddingPublisher(CompactedProducer(KafkaTimeoutError()), JSON)([("1", "a", 1, None)])


class FakeBroker:
    """The connection, its consumer and its admin client: one partition a topic, read one record at a time."""

    codec: Codec = JSON

    def __init__(
        self,
        log: Sequence[tuple[Any, ...]] = (),
        offers: Sequence[tuple[Any, ...]] = (),
        failures: dict[int, list[Exception]] | None = None,
    ) -> None:
        self.logs = {P0: list(log), O0: list(offers)}
        self.failures = failures or {}  # by offset of the embeddings
        self.first = dict.fromkeys(self.logs, 0)
        self.at = dict.fromkeys(self.logs, 0)
        self.topic_id, self.kept_ms = "t1", DAY
        self.read: list[tuple[str, int]] = []
        self.there, self.closed = True, False
        self.lock = threading.Lock()  # for who changes a log and where it is read at the same time

    def consumer(self, **_: Any) -> FakeBroker:
        return self

    def admin(self) -> FakeBroker:
        return self

    def describe_topics(self, topics: list[str]) -> list[dict[str, Any]]:
        return [{"error_code": 0, "topic_id": f"{self.topic_id}-{topics[0]}"}]

    def describe_cluster(self) -> dict[str, str]:
        return {"cluster_id": "c"}

    def describe_configs(self, resources: list[Any], config_filter: str) -> dict[str, Any]:
        return {"topic": {resources[0].name: {"delete.retention.ms": {"value": str(self.kept_ms)}}}}

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        return {0} if self.there else None

    def assign(self, partitions: Any) -> None: ...

    def beginning_offsets(self, partitions: Any) -> dict[TopicPartition, int]:
        return dict(self.first)

    def end_offsets(self, partitions: Any) -> dict[TopicPartition, int]:
        return {tp: len(log) for tp, log in self.logs.items()}

    def poll(self, timeout_ms: int) -> dict[TopicPartition, list[Record]]:
        with self.lock:
            if self.failures.get(self.at[P0]):
                raise self.failures[self.at[P0]].pop(0)
            out = {}
            for tp, log in self.logs.items():
                at = self.at[tp]
                self.at[tp] = min(len(log), at + 1)
                out[tp] = [Record(tp.topic, 0, at, 0, k, v, h) for k, v, h in log[at : self.at[tp]]]
                self.read += [(tp.topic, at)] * len(out[tp])
            return {tp: rows for tp, rows in out.items() if rows}

    def position(self, tp: TopicPartition) -> int:
        return self.at[tp]

    def seek(self, tp: TopicPartition, offset: int) -> None:
        self.at[tp] = offset

    def close(self, timeout_ms: int = 0) -> None:
        self.closed = True


def follower_of(broker: FakeBroker, index: RetrievalIndex, applied: Any = None, **rest: Any) -> IndexFollower:
    return IndexFollower(broker, index, applied, **rest)  # type: ignore[arg-type]


def follow(broker: FakeBroker, applied: list[str] | None = None) -> RetrievalIndex:
    index = RetrievalIndex("1")
    seen: list[str] = [] if applied is None else applied
    with follower_of(broker, index, lambda id, ms: seen.append(id)) as follower:
        assert follower.catch_up(10)
    assert broker.closed
    return index


def test_the_newest_vector_of_each_product_of_the_model_is_in_the_index() -> None:
    applied: list[str] = []
    index = follow(
        FakeBroker(
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
    (b"1/other", JSON.encode(message("a", 1)), []),
    (b"1/a", JSON.encode(message("a", 1, "2")), []),
    (b"1/a", JSON.encode(message("a", 1)).replace(b'"vector":"', b'"vector":"!'), []),
    (b"1/a", JSON.encode(msgspec.structs.replace(message("a", 1), vector=ProductVector.pack(np.zeros(256)))), []),
    (
        b"1/a",
        JSON.encode(msgspec.structs.replace(message("a", 1), vector=ProductVector.pack(np.full(256, np.nan)))),
        [],
    ),
]


@pytest.mark.parametrize("bad", BAD_RECORDS, ids=str)
def test_a_record_that_is_none_is_skipped(bad: tuple[Any, ...]) -> None:
    index = follow(FakeBroker([bad, on_topic("z", 1, message("z", 1))]))
    assert ("z" in index, "a" in index) == (True, False)


def test_damage_on_the_brokers_disk_and_a_broker_that_is_away_for_a_moment_are_got_over() -> None:
    log = [on_topic(id, 1, message(id, 1)) for id in "abc"]
    crc = CorruptRecordError(f"Record batch for partition {P0} at offset 1 failed crc check")
    index = follow(FakeBroker(log, failures={1: [crc], 2: [KafkaConnectionError("away")]}))
    assert ["a" in index, "b" in index, "c" in index] == [True, False, True]


def test_a_follower_that_died_says_so_at_once() -> None:
    broker = FakeBroker(failures={0: [ZeroDivisionError()]})
    with follower_of(broker, RetrievalIndex("1")) as follower:
        assert not follower.catch_up(20)


def test_a_topic_that_is_not_there_is_named() -> None:
    broker = FakeBroker()
    broker.there = False
    with pytest.raises(TopicError, match=r"product\.embeddings does not exist"):
        follower_of(broker, RetrievalIndex("1")).start()
    assert broker.closed


def test_a_broker_that_fails_while_the_follower_starts_leaves_no_broker_open() -> None:
    broker = FakeBroker()

    def away(partitions: Any) -> None:
        raise KafkaConnectionError("away")

    broker.assign = away  # type: ignore[method-assign]
    with pytest.raises(BrokerError, match=r"product\.embeddings and product\.offers cannot be read: KafkaConnection"):
        follower_of(broker, RetrievalIndex("1")).start()
    assert broker.closed


def test_a_follower_that_was_never_started_holds_nothing_and_can_be_closed() -> None:
    broker = FakeBroker()
    opened: list[FakeBroker] = []
    broker.broker = lambda **_: opened.append(broker) or broker  # type: ignore[method-assign,func-returns-value]
    follower = follower_of(broker, RetrievalIndex("1"))
    follower.close()
    assert [c for c in opened if not c.closed] == []


# ---------------------------------------------------------------------------------------------------- attributes


def offer(id: str, version: int, cents: int | None = None, **fields: Any) -> tuple[Any, ...]:
    currency = None if cents is None else "EUR"
    value = ProductOffer(id=id, version=version, amount_minor=cents, currency=currency, source_time=1000, **fields)
    return id.encode(), msgspec.json.encode(value), [("sagelift-version", str(version).encode())]


def gone(id: str, version: int) -> tuple[Any, ...]:
    return id.encode(), None, [("sagelift-version", str(version).encode())]


def found(index: RetrievalIndex, where: Filter) -> set[str]:
    return set(index.search(np.ones((1, 256), np.float32), 100, where=where)[0].ids)


def test_what_products_are_filtered_by_follows_too_and_says_how_fresh_it_is() -> None:
    index, heard = RetrievalIndex("1"), []
    broker = FakeBroker(
        [on_topic(id, 1, message(id, 1)) for id in "abcd"],
        [
            offer("a", 1, 500, availability="in_stock", product_type="Home > Lamps"),
            offer("b", 1, 900, availability="in_stock"),
            offer("a", 2, 700, availability="out_of_stock", product_type="Home > Lamps"),
            offer("b", 0, 1, availability="in_stock"),
            offer("c", 3, 100, availability="in_stock"),
            gone("c", 4),
        ],
    )
    clock = iter(range(10**9))
    with follower_of(
        broker, index, on_offer=lambda id, ms: heard.append((id, ms > 0)), clock=lambda: 2.0 + next(clock) / 1e6
    ) as follower:
        assert follower.catch_up(10)
    assert found(index, Filter(in_stock=True)) == {"b"}
    assert found(index, Filter(max_price=800, currency="EUR")) == {"a"}
    assert found(index, Filter(categories=("home",))) == {"a"}
    assert heard == [("a", True), ("b", True), ("a", True), ("c", True)]


BAD_OFFERS = [
    (None, None, []),
    (b"a", None, []),
    (b"a", b"{", []),
    (b"a", b'{"id": "a"}', []),
    (b"a", b'{"id":"a","version":1,"source_time":1,"amount_minor":"x"}', []),
    (b"b", *offer("a", 1, 500, availability="in_stock")[1:]),
]


@pytest.mark.parametrize("bad", BAD_OFFERS, ids=str)
def test_an_offer_that_is_none_is_skipped(bad: tuple[Any, ...]) -> None:
    broker = FakeBroker(
        [on_topic(id, 1, message(id, 1)) for id in "abz"], [bad, offer("z", 1, 5, availability="in_stock")]
    )
    assert found(follow(broker), Filter(in_stock=True)) == {"z"}


# ------------------------------------------------------------------------------------------------- going on again


def saved_and_loaded(broker: FakeBroker, folder: Path, clock: Any = lambda: 1e9) -> RetrievalIndex:
    """Follow to the end, save with the position, load."""
    index = RetrievalIndex("1")
    with follower_of(broker, index, clock=clock) as follower:
        assert follower.catch_up(10)
        index.save(folder, follower.position())
    broker.read.clear()
    return RetrievalIndex.load(folder, "1")


def shop() -> FakeBroker:
    return FakeBroker([on_topic(id, 1, message(id, 1)) for id in "abc"], [offer("a", 1, 5)])


def test_a_saved_index_goes_on_where_it_was_saved(tmp_path: Path) -> None:
    broker = shop()
    index = saved_and_loaded(broker, tmp_path)
    broker.logs[P0] += [on_topic("a", 2, None), on_topic("d", 1, message("d", 1))]
    broker.logs[O0] += [offer("d", 1, 7)]
    with follower_of(broker, index, clock=lambda: 1e9 + 3600) as follower:
        assert follower.catch_up(10)
    assert broker.read == [(P0.topic, 3), (O0.topic, 1), (P0.topic, 4)]
    assert [id in index for id in "abcd"] == [False, True, True, True]
    assert found(index, Filter(max_price=10, currency="EUR")) == {"d"}


def made_anew(broker: FakeBroker) -> None:
    broker.topic_id = "t2"


def shortened(broker: FakeBroker) -> None:
    broker.first[P0] = 4
    broker.logs[P0] += [on_topic("x", 1, message("x", 1))] * 2


def lost(broker: FakeBroker) -> None:
    del broker.logs[P0][2:]


def forgot_deletions_soon(broker: FakeBroker) -> None:
    broker.kept_ms = 60_000


@pytest.mark.parametrize(
    ("what_happened", "told"),
    [
        (made_anew, r"another topic product.embeddings than the present one \(c/t2-product.embeddings\)"),
        (shortened, r"offset 3 of product.embeddings, partition 0, which holds 4 to 5"),
        (lost, r"offset 3 of product.embeddings, partition 0, which holds 0 to 2"),
        (forgot_deletions_soon, r"it is 1.0 hours old, and deletions stay on the topics for 0.0"),
    ],
)
def test_a_saved_index_that_its_topics_no_longer_continue_is_built_anew_and_the_log_says_why(
    what_happened: Any, told: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broker = shop()
    index = saved_and_loaded(broker, tmp_path)
    what_happened(broker)
    broker.logs[P0][-1] = on_topic("z", 1, message("z", 1))
    with follower_of(broker, index, clock=lambda: 1e9 + 3600) as follower:
        assert follower.catch_up(10)
    assert re.search(f"model version 1 is built anew: .*{told}", caplog.text)
    assert broker.read[0] == (P0.topic, broker.first[P0])
    expected = {key.decode()[2:] for key, *_ in broker.logs[P0][broker.first[P0] :]}
    assert {id for id in "abcxz" if id in index} == expected


def test_a_reader_kept_from_the_topic_for_longer_than_deletions_stay_begins_anew(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its index holds a product whose deletion is compacted away by the time it can read again."""
    broker, index, now = shop(), RetrievalIndex("1"), [1e9]
    with follower_of(broker, index, clock=lambda: now[0]) as follower:
        assert follower.catch_up(10)
        assert "b" in index
        broker.logs[P0] = [on_topic(id, 1, message(id, 1)) for id in "aac"]
        now[0] += 2 * DAY / 1000
        deadline = time.monotonic() + 10
        while "b" in index and time.monotonic() < deadline:
            pass
        assert follower.catch_up(10)
        assert [id in index for id in "abc"] == [True, False, True]
        assert follower.current
    assert "did not read everything for 24.0 hours" in caplog.text


def test_a_topic_made_anew_under_a_reader_is_read_anew(caplog: pytest.LogCaptureFixture) -> None:
    """The consumer is set back to the first offset by the broker; its old versions must not bar the new ones."""
    broker, index = FakeBroker([on_topic(id, 9, message(id, 9)) for id in "abc"]), RetrievalIndex("1")
    with follower_of(broker, index) as follower:
        assert follower.catch_up(10)
        made_anew(broker)
        with broker.lock:
            broker.logs[P0], broker.at[P0] = [on_topic("a", 1, message("a", 1))], 0
        deadline = time.monotonic() + 10
        while "b" in index and time.monotonic() < deadline:
            pass
        assert follower.catch_up(10)
        assert [id in index for id in "abc"] == [True, False, False]
        assert all("t2" in name for name in follower.position() if name != "as_of_ms")
    assert "begins anew at offset 0" in caplog.text


def test_what_is_applied_after_the_position_was_taken_is_only_applied_again(tmp_path: Path) -> None:
    broker, index = shop(), RetrievalIndex("1")
    with follower_of(broker, index) as follower:
        assert follower.catch_up(10)
        position = follower.position()
        broker.logs[P0] += [on_topic("d", 1, message("d", 1)), on_topic("b", 2, None)]
        assert follower.catch_up(10)
        index.save(tmp_path, position)
    again = RetrievalIndex.load(tmp_path, "1")
    broker.read.clear()
    with follower_of(broker, again) as follower:
        assert follower.catch_up(10)
    assert broker.read == [(P0.topic, 3), (P0.topic, 4)]
    assert [id in again for id in "abcd"] == [True, False, True, True]


def test_the_position_at_the_end_is_that_of_a_reader_that_read_everything() -> None:
    broker, index = shop(), RetrievalIndex("1")
    with follower_of(broker, index) as follower:
        assert follower.catch_up(10)
        read = follower.position()
    at_end = end_position(broker)  # type: ignore[arg-type]
    assert {k: v for k, v in at_end.items() if k != "as_of_ms"} == {k: v for k, v in read.items() if k != "as_of_ms"}
    assert abs(at_end["as_of_ms"] - read["as_of_ms"]) < 60_000

"""An index follows its topics with any records, and resumes where it was saved."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kafka.errors import CorruptRecordError, KafkaConnectionError

from inference.retrieval import Filter, RetrievalIndex
from streaming.errors import BrokerError, TopicError
from streaming.vectors.follower import end_position
from tests.streaming.builders import vector_of
from tests.streaming.vectors.builders import found_ids, offer_record, tombstone_record, vector_message, vector_record
from tests.streaming.vectors.fakes import DAY_MS, O0, P0, FakeBroker, follower_of
from tests.waiting import wait_until


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
                vector_record("a", 2, vector_message("a", 2)),
                vector_record("a", 1, vector_message("a", 1)),
                vector_record("b", 1, vector_message("b", 1)),
                vector_record("c", 1, vector_message("c", 1, "2"), "2"),
                vector_record("b", 2, None),
                vector_record("b", 1, vector_message("b", 1)),
            ]
        ),
        applied,
    )
    assert ("a" in index, "b" in index, "c" in index) == (True, False, False)
    np.testing.assert_allclose(index.vectors(["a"])["a"], vector_of("a", 2), atol=2e-3)
    assert applied == ["a", "b"], "old vectors and other models are not reported"


def test_damaged_bytes_are_skipped_and_a_short_failure_of_the_broker_is_survived() -> None:
    log = [vector_record(id, 1, vector_message(id, 1)) for id in "abc"]
    crc = CorruptRecordError(f"Record batch for partition {P0} at offset 1 failed crc check")
    index = follow(FakeBroker(log, failures={1: [crc], 2: [KafkaConnectionError("no connection")]}))
    assert ["a" in index, "b" in index, "c" in index] == [True, False, True]


def test_catch_up_returns_at_once_when_the_follower_has_failed() -> None:
    broker = FakeBroker(failures={0: [ZeroDivisionError()]})
    with follower_of(broker, RetrievalIndex("1")) as follower:
        assert not follower.catch_up(20)


def test_a_missing_topic_is_named() -> None:
    broker = FakeBroker()
    broker.exists = False
    with pytest.raises(TopicError, match=r"product\.embeddings does not exist"):
        follower_of(broker, RetrievalIndex("1")).start()
    assert broker.closed


def test_a_failed_start_closes_the_consumer() -> None:
    broker = FakeBroker()

    def fails(partitions: Any) -> None:
        raise KafkaConnectionError("no connection")

    broker.assign = fails  # type: ignore[method-assign]
    with pytest.raises(BrokerError, match=r"product\.embeddings and product\.offers cannot be read: KafkaConnection"):
        follower_of(broker, RetrievalIndex("1")).start()
    assert broker.closed


def test_a_follower_that_was_never_started_opens_nothing_and_can_be_closed() -> None:
    broker = FakeBroker()
    opened: list[FakeBroker] = []
    broker.consumer = lambda **_: opened.append(broker) or broker  # type: ignore[method-assign,func-returns-value]
    follower = follower_of(broker, RetrievalIndex("1"))
    assert not follower.following
    follower.close()
    assert opened == []


def test_offers_follow_too_with_their_age() -> None:
    index, ages = RetrievalIndex("1"), []
    broker = FakeBroker(
        [vector_record(id, 1, vector_message(id, 1)) for id in "abcd"],
        [
            offer_record("a", 1, 500, availability="in_stock", product_type="Home > Lamps"),
            offer_record("b", 1, 900, availability="in_stock"),
            offer_record("a", 2, 700, availability="out_of_stock", product_type="Home > Lamps"),
            offer_record("b", 0, 1, availability="in_stock"),
            offer_record("c", 3, 100, availability="in_stock"),
            tombstone_record("c", 4),
        ],
    )
    clock = iter(range(10**9))
    with follower_of(
        broker, index, on_offer=lambda id, ms: ages.append((id, ms > 0)), clock=lambda: 2.0 + next(clock) / 1e6
    ) as follower:
        assert follower.catch_up(10)
    assert found_ids(index, Filter(in_stock=True)) == {"b"}
    assert found_ids(index, Filter(max_price=800, currency="EUR")) == {"a"}
    assert found_ids(index, Filter(categories=("home",))) == {"a"}
    assert ages == [("a", True), ("b", True), ("a", True), ("c", True)]


def saved_and_loaded(broker: FakeBroker, folder: Path, clock: Any = lambda: 1e9) -> RetrievalIndex:
    """Follow to the end, save with the position, load."""
    index = RetrievalIndex("1")
    with follower_of(broker, index, clock=clock) as follower:
        assert follower.catch_up(10)
        index.save(folder, follower.position())
    broker.read.clear()
    return RetrievalIndex.load(folder, "1")


def shop() -> FakeBroker:
    return FakeBroker([vector_record(id, 1, vector_message(id, 1)) for id in "abc"], [offer_record("a", 1, 5)])


def test_a_saved_index_resumes_where_it_was_saved(tmp_path: Path) -> None:
    broker = shop()
    index = saved_and_loaded(broker, tmp_path)
    broker.logs[P0] += [vector_record("a", 2, None), vector_record("d", 1, vector_message("d", 1))]
    broker.logs[O0] += [offer_record("d", 1, 7)]
    with follower_of(broker, index, clock=lambda: 1e9 + 3600) as follower:
        assert follower.catch_up(10)
    assert broker.read == [(P0.topic, 3), (O0.topic, 1), (P0.topic, 4)]
    assert [id in index for id in "abcd"] == [False, True, True, True]
    assert found_ids(index, Filter(max_price=10, currency="EUR")) == {"d"}


def created_again(broker: FakeBroker) -> None:
    broker.topic_id = "t2"


def shortened(broker: FakeBroker) -> None:
    broker.first[P0] = 4
    broker.logs[P0] += [vector_record("x", 1, vector_message("x", 1))] * 2


def lost(broker: FakeBroker) -> None:
    del broker.logs[P0][2:]


def forgot_deletions_soon(broker: FakeBroker) -> None:
    broker.kept_ms = 60_000


@pytest.mark.parametrize(
    ("what_happened", "reason"),
    [
        (created_again, r"another topic product.embeddings than the present one \(c/t2-product.embeddings\)"),
        (shortened, r"offset 3 of product.embeddings, partition 0, which holds 4 to 5"),
        (lost, r"offset 3 of product.embeddings, partition 0, which holds 0 to 2"),
        (forgot_deletions_soon, r"it is 1.0 hours old, and deletions stay on the topics for 0.0"),
    ],
)
def test_a_saved_index_that_its_topics_no_longer_continue_is_rebuilt_and_the_log_says_why(
    what_happened: Any, reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broker = shop()
    index = saved_and_loaded(broker, tmp_path)
    what_happened(broker)
    broker.logs[P0][-1] = vector_record("z", 1, vector_message("z", 1))
    with follower_of(broker, index, clock=lambda: 1e9 + 3600) as follower:
        assert follower.catch_up(10)
    assert re.search(f"model version 1 is rebuilt: .*{reason}", caplog.text)
    assert broker.read[0] == (P0.topic, broker.first[P0])
    expected = {key.decode()[2:] for key, *_ in broker.logs[P0][broker.first[P0] :]}
    assert {id for id in "abcxz" if id in index} == expected


def test_a_reader_stopped_for_longer_than_tombstones_stay_rebuilds_its_index(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its index holds a product whose deletion is compacted away by the time it can read again."""
    broker, index, now = shop(), RetrievalIndex("1"), [1e9]
    with follower_of(broker, index, clock=lambda: now[0]) as follower:
        assert follower.catch_up(10)
        assert "b" in index
        broker.logs[P0] = [vector_record(id, 1, vector_message(id, 1)) for id in "aac"]
        now[0] += 2 * DAY_MS / 1000
        wait_until(lambda: "b" not in index, "the deleted product to leave the index")
        assert follower.catch_up(10)
        assert [id in index for id in "abc"] == [True, False, True]
        assert follower.current
    assert "did not read everything for 24.0 hours" in caplog.text


def test_a_topic_that_is_created_again_under_a_reader_is_read_from_its_start(caplog: pytest.LogCaptureFixture) -> None:
    """The broker sets the consumer back to the first offset; versions of the old topic must not block the new ones."""
    broker, index = FakeBroker([vector_record(id, 9, vector_message(id, 9)) for id in "abc"]), RetrievalIndex("1")
    with follower_of(broker, index) as follower:
        assert follower.catch_up(10)
        created_again(broker)
        with broker.lock:
            broker.logs[P0], broker.at[P0] = [vector_record("a", 1, vector_message("a", 1))], 0
        wait_until(lambda: "b" not in index, "the deleted product to leave the index")
        assert follower.catch_up(10)
        assert [id in index for id in "abc"] == [True, False, False]
        assert all("t2" in name for name in follower.position() if name != "as_of_ms")
    assert "starts again at offset 0" in caplog.text


def test_records_applied_after_the_position_was_taken_are_applied_again(tmp_path: Path) -> None:
    broker, index = shop(), RetrievalIndex("1")
    with follower_of(broker, index) as follower:
        assert follower.catch_up(10)
        position = follower.position()
        broker.logs[P0] += [vector_record("d", 1, vector_message("d", 1)), vector_record("b", 2, None)]
        assert follower.catch_up(10)
        index.save(tmp_path, position)
    again = RetrievalIndex.load(tmp_path, "1")
    broker.read.clear()
    with follower_of(broker, again) as follower:
        assert follower.catch_up(10)
    assert broker.read == [(P0.topic, 3), (P0.topic, 4)]
    assert [id in again for id in "abcd"] == [True, False, True, True]


def test_the_end_position_is_the_position_of_a_reader_that_read_everything() -> None:
    broker, index = shop(), RetrievalIndex("1")
    with follower_of(broker, index) as follower:
        assert follower.catch_up(10)
        read = follower.position()
    at_end = end_position(broker)  # type: ignore[arg-type]
    assert {k: v for k, v in at_end.items() if k != "as_of_ms"} == {k: v for k, v in read.items() if k != "as_of_ms"}
    assert abs(at_end["as_of_ms"] - read["as_of_ms"]) < 60_000

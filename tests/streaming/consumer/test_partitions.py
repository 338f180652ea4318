"""The bookkeeping of partitions: offsets count only within the epoch in which their records were read."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

import pytest
from kafka.errors import CommitFailedError, CorruptRecordError, KafkaConnectionError

from streaming.consumer.partitions import Partitions
from tests.streaming.builders import Record
from tests.streaming.consumer.fakes import P0, P1, FakeConsumer

ROWS = {P0: [Record("t", 0, 0), Record("t", 0, 1)]}


def assigned(start_offsets: Callable[[], Mapping[int, int]] | None = None) -> tuple[FakeConsumer, Partitions]:
    consumer = FakeConsumer(threading.Event(), p0=4, p1=4)
    partitions = Partitions(consumer, "t", start_offsets)
    consumer.listener = partitions
    consumer.assign(P0, P1)
    return consumer, partitions


def test_finished_records_are_committed_once() -> None:
    consumer, partitions = assigned()
    partitions.finish(ROWS, {P0: 0})
    assert partitions.uncommitted
    partitions.commit()
    partitions.commit()
    assert consumer.commits == [{P0: 2}]
    assert not partitions.uncommitted


def test_records_of_an_earlier_epoch_are_not_committed() -> None:
    consumer, partitions = assigned()
    consumer.revoke(P0)
    consumer.assign(P0)
    assert (partitions.epoch(P0), partitions.epoch(P1)) == (1, 0)
    partitions.finish(ROWS, {P0: 0})
    partitions.commit()
    assert consumer.commits == []


def test_a_revoked_partition_drops_what_was_finished_but_not_committed() -> None:
    consumer, partitions = assigned()
    partitions.finish(ROWS, {P0: 0})
    consumer.revoke(P0, lost=True)
    assert not partitions.uncommitted


@pytest.mark.parametrize(("error", "kept"), [(KafkaConnectionError(), True), (CommitFailedError(), False)])
def test_a_failed_commit_is_kept_and_a_refused_one_dropped(error: Exception, kept: bool) -> None:
    consumer, partitions = assigned()
    consumer.commit_errors.append(error)
    partitions.finish(ROWS, {P0: 0})
    if kept:
        with pytest.raises(KafkaConnectionError):
            partitions.commit()
    else:
        partitions.commit()
    assert partitions.uncommitted == kept


def test_new_partitions_begin_at_their_start_offsets_and_what_was_polled_before_is_given_back() -> None:
    consumer, partitions = assigned(lambda: {0: 3})
    consumer.positions |= {P0: 2, P1: 2}
    assert partitions.place(ROWS)
    assert consumer.positions == {P0: 3, P1: 0}
    assert not partitions.place(ROWS), "only once for each assignment"


def test_a_damaged_offset_is_skipped_and_committed() -> None:
    consumer, partitions = assigned()
    consumer.positions[P0] = 2
    partitions.note_damaged(consumer.corrupt(P0))
    assert partitions.damaged[P0].offset == 2
    partitions.skip_damaged(P0)
    partitions.commit()
    assert (consumer.positions[P0], consumer.committed) == (3, {P0: 3})


def test_damage_of_a_revoked_partition_is_forgotten() -> None:
    consumer, partitions = assigned()
    partitions.note_damaged(consumer.corrupt(P0))
    consumer.revoke(P0)
    assert partitions.damaged == {}
    partitions.skip_damaged(P0)
    assert not partitions.uncommitted


def test_damage_without_a_partition_is_raised() -> None:
    _, partitions = assigned()
    with pytest.raises(CorruptRecordError):
        partitions.note_damaged(CorruptRecordError("Found invalid number of records"))

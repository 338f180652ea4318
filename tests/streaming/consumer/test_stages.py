"""Batches, and the threads of the stages that they pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from streaming.consumer.observer import NO_OBSERVER
from streaming.consumer.stages import Backoff, Batch, StageThreads
from tests.streaming.builders import Record
from tests.streaming.consumer.fakes import P0, P1

ROWS = {P0: [Record("t", 0, 0)], P1: [Record("t", 1, 0)]}


def threads(**stages: Callable[[Any], Any]) -> StageThreads:
    return StageThreads(
        stages, retryable=(ConnectionError,), backoff=Backoff(0.001, 0.002), note=str, observer=NO_OBSERVER
    )


def batch() -> Batch:
    made = Batch()
    made.add(ROWS, lambda tp: 0)
    return made


def test_a_batch_keeps_only_records_of_the_present_epochs() -> None:
    read = batch()
    assert read.size == 2
    assert read.kept(lambda tp: 1 if tp == P0 else 0) == {P1: ROWS[P1]}


def test_records_of_an_earlier_epoch_are_replaced_when_their_partition_comes_back() -> None:
    read = batch()
    again = Record("t", 0, 5)
    read.add({P0: [again]}, lambda tp: 1)
    assert read.records[P0] == [again]


def test_each_stage_gets_the_result_of_the_one_before_it() -> None:
    results: list[Any] = []
    line = threads(count=lambda records: sum(map(len, records.values())), double=lambda n: results.append(2 * n))
    read = batch()
    line.put(read)
    assert read.done.wait(10)
    assert results == [4]
    line.close()


def test_a_retryable_error_is_retried_with_the_same_input_and_a_permanent_one_breaks_the_batch() -> None:
    errors: list[Exception] = [ConnectionError("away"), ConnectionError("away")]
    inputs: list[Any] = []

    def stage(records: Any) -> None:
        inputs.append(records)
        if errors:
            raise errors.pop()
        if len(inputs) > 3:
            raise ZeroDivisionError("a bug")

    line, first, second = threads(work=stage), batch(), batch()
    line.put(first)
    assert first.done.wait(10)
    assert inputs == [first.records] * 3
    assert line.failing == {}
    line.put(second)
    assert not second.done.wait(0.05)
    assert second.broken
    assert isinstance(line.error, ZeroDivisionError)


def test_a_dropped_batch_is_not_passed_on() -> None:
    read, later = batch(), batch()
    read.dropped.set()
    seen: list[Any] = []
    line = threads(work=seen.append)
    line.put(read)
    line.put(later)
    assert later.done.wait(10)
    assert not read.done.is_set()
    assert seen == [later.records]
    line.close()

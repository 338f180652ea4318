"""The consumer loop on a stand-in of kafka-python: nothing is committed before it is handled, nothing is skipped."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from kafka.errors import (
    CommitFailedError,
    CorruptRecordError,
    KafkaConnectionError,
    RebalanceInProgressError,
    TopicAuthorizationFailedError,
)

from streaming.consumer.loop import ConsumerLoop, Pacing
from streaming.consumer.observer import NO_OBSERVER
from streaming.consumer.partitions import Records
from streaming.consumer.stages import Backoff
from streaming.errors import BrokerError
from streaming.kafka.connection import TopicPartition
from tests.streaming.consumer.fakes import P0, P1, FakeConsumer
from tests.waiting import wait_until


class Unreachable(Exception):
    """A retryable error: a server that the handler needs is unreachable."""


class Handler:
    """Keeps the records that it gets; raises the next of `failures`, if there are any."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []
        self.failures: deque[Exception] = deque()
        self.during: Callable[[], None] = lambda: None
        self.threads: set[str] = set()

    def __call__(self, records: Records) -> None:
        self.threads.add(threading.current_thread().name)
        self.during()
        if self.failures:
            raise self.failures.popleft()
        self.seen += [(tp.partition, r.offset) for tp, rows in records.items() for r in rows]


@pytest.fixture
def stop() -> threading.Event:
    return threading.Event()


QUICK = Pacing(Backoff(first_s=0.002, longest_s=0.01), keep_alive_s=0.005)


def make(consumer: FakeConsumer, handle: Callable[[Records], None], **options: Any) -> ConsumerLoop:
    options = {"unreadable": lambda tp, offset, error: None, "pacing": QUICK} | options
    return ConsumerLoop(consumer, "t", {"work": handle}, retryable=(Unreachable, BrokerError), **options)


def test_each_batch_is_handled_and_then_committed(stop: threading.Event) -> None:
    consumer, handler = FakeConsumer(stop, p0=5, p1=1), Handler()
    order: list[tuple[str, int]] = []
    handler.during = lambda: order.append(("handle", len(consumer.commits)))
    make(consumer, handler).run(stop)
    assert handler.seen == [(0, 0), (0, 1), (0, 2), (0, 3), (0, 4), (1, 0)]
    assert consumer.commits == [{P0: 2}, {P0: 4}, {P0: 5}, {P1: 1}]
    assert order == [("handle", n) for n in range(4)], "each batch begins after the commit of the one before"
    assert consumer.closed
    assert handler.threads == {"consumer-work"}, "stores keep a connection per thread"


def test_a_retryable_error_is_retried_with_the_same_records(stop: threading.Event) -> None:
    consumer, handler = FakeConsumer(stop, p0=4), Handler()
    errors = itertools.cycle([Unreachable("triton"), BrokerError("dlq")])

    def fail_until_polled_again() -> None:
        if consumer.polls < 5:  # the first read the records, the others only keep the membership
            raise next(errors)

    handler.during = fail_until_polled_again
    make(consumer, handler).run(stop)
    assert handler.seen == [(0, 0), (0, 1), (0, 2), (0, 3)]
    assert consumer.committed == {P0: 4}
    assert consumer.pauses == set()


def test_a_permanent_error_ends_the_loop_and_is_not_committed(stop: threading.Event) -> None:
    consumer, handler = FakeConsumer(stop, p0=4), Handler()
    consumer.script.append(lambda: handler.failures.append(ZeroDivisionError("a bug")))
    with pytest.raises(ZeroDivisionError):
        make(consumer, handler).run(stop)
    assert consumer.committed == {P0: 2}
    assert consumer.closed


def test_a_stop_during_the_back_off_ends_it_and_commits_nothing_of_the_batch(stop: threading.Event) -> None:
    consumer, handler = FakeConsumer(stop, p0=4), Handler()
    handler.failures.extend([Unreachable()] * 1000)
    consumer.script.extend([lambda: None, stop.set])
    make(consumer, handler).run(stop)
    assert handler.seen == []
    assert consumer.committed == {}
    assert len(handler.failures) > 900


def test_a_stop_lets_work_in_flight_finish_and_commits_it(stop: threading.Event) -> None:
    consumer, handler = FakeConsumer(stop, p0=4), Handler()

    def long_work() -> None:
        stop.set()
        assert not threading.Event().wait(0.3)

    handler.during = long_work
    make(consumer, handler).run(stop)
    assert handler.seen == [(0, 0), (0, 1)]
    assert consumer.committed == {P0: 2}


def test_a_stop_abandons_work_that_is_not_done_within_the_deadline(stop: threading.Event) -> None:
    consumer, handler = FakeConsumer(stop, p0=4), Handler()
    release, finished = threading.Event(), threading.Event()

    def hang() -> None:
        stop.set()
        release.wait(30)
        finished.set()

    handler.during = hang
    make(consumer, handler, pacing=replace(QUICK, stop_within_s=0.2)).run(stop)
    assert not finished.is_set(), "the loop returned while the work was hanging"
    assert consumer.committed == {}
    assert consumer.closed
    release.set()


def test_long_work_keeps_the_membership(stop: threading.Event) -> None:
    consumer, handler = FakeConsumer(stop, p0=2), Handler()

    def until_polled() -> None:
        wait_until(lambda: consumer.polls >= 4)

    handler.during = until_polled
    make(consumer, handler).run(stop)
    assert consumer.polls >= 4
    assert handler.seen == [(0, 0), (0, 1)]


def test_records_of_a_partition_assigned_during_a_back_off_are_given_back(stop: threading.Event) -> None:
    """`poll` returns them although all other partitions are paused; a naive keep-alive would lose them."""
    consumer, handler = FakeConsumer(stop, p0=2, p1=3), Handler()
    handler.failures.extend([Unreachable()] * 3)
    consumer.subscribe = lambda topics, listener: (  # type: ignore[method-assign]
        setattr(consumer, "listener", listener),
        consumer.script.extend([lambda: consumer.assign(P0), lambda: consumer.assign(P1)]),
    )
    make(consumer, handler).run(stop)
    assert sorted(handler.seen) == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]
    assert consumer.committed == {P0: 2, P1: 3}


@pytest.mark.parametrize("lost", [False, True])
def test_a_partition_that_is_revoked_during_a_back_off_is_not_committed(stop: threading.Event, lost: bool) -> None:
    consumer, handler = FakeConsumer(stop, p0=2, p1=1), Handler()
    consumer.script.append(lambda: consumer.revoke(P0, lost=lost))

    def fail() -> None:
        if consumer.script:
            raise Unreachable

    handler.during = fail
    make(consumer, handler).run(stop)
    assert consumer.committed == {P1: 1}
    assert (1, 0) in handler.seen


def test_a_partition_that_is_revoked_while_its_records_are_handled_is_not_committed(stop: threading.Event) -> None:
    consumer, handler = FakeConsumer(stop, p0=2, p1=1), Handler()
    consumer.script.append(lambda: consumer.revoke(P0))

    def until_revoked() -> None:
        wait_until(lambda: not consumer.script)

    handler.during = until_revoked
    make(consumer, handler).run(stop)
    assert handler.seen == [(0, 0), (0, 1), (1, 0)]
    assert consumer.committed == {P1: 1}


def test_a_failed_commit_is_retried_even_if_nothing_new_arrives(stop: threading.Event) -> None:
    consumer, handler = FakeConsumer(stop, p0=2), Handler()
    consumer.commit_errors.extend([KafkaConnectionError(), RebalanceInProgressError()])
    consumer.script.extend([lambda: None] * 4)
    make(consumer, handler).run(stop)
    assert consumer.committed == {P0: 2}
    assert handler.seen == [(0, 0), (0, 1)]


def test_a_refused_commit_is_dropped_because_the_new_owner_reads_again(stop: threading.Event) -> None:
    consumer, handler = FakeConsumer(stop, p0=2), Handler()
    consumer.commit_errors.append(CommitFailedError())
    consumer.script.extend([lambda: None] * 3)
    make(consumer, handler).run(stop)
    assert consumer.commits == []


def test_a_failed_commit_is_not_retried_for_a_revoked_partition(stop: threading.Event) -> None:
    """Its new owner may have committed a later offset."""
    consumer, handler = FakeConsumer(stop, p0=2), Handler()
    consumer.commit_errors.append(KafkaConnectionError())
    consumer.script.extend([lambda: consumer.revoke(P0), lambda: None])
    make(consumer, handler).run(stop)
    assert handler.seen == [(0, 0), (0, 1)]
    assert consumer.commits == []


def test_a_failed_poll_is_retried_and_a_forbidden_one_is_not(stop: threading.Event) -> None:
    def fail(error: Exception) -> Callable[[], None]:
        def raise_it() -> None:
            raise error

        return raise_it

    consumer, handler = FakeConsumer(stop, p0=2), Handler()
    consumer.script.extend([fail(KafkaConnectionError("away")), fail(TopicAuthorizationFailedError("t"))])
    with pytest.raises(BrokerError, match="refuses this consumer: this Kafka user may not use the topic t "):
        make(consumer, handler).run(stop)
    assert consumer.committed == {P0: 2}, "the first failure was got over"


def test_a_last_commit_that_is_forbidden_leaves_neither_the_consumer_nor_the_work_thread_open(
    stop: threading.Event,
) -> None:
    consumer, handler = FakeConsumer(stop, p0=2), Handler()
    consumer.commit_errors.extend([TopicAuthorizationFailedError("t")] * 2)
    before = threading.enumerate()
    loop = make(consumer, handler)
    with pytest.raises(BrokerError, match="refuses this consumer: this Kafka user may not use the topic t "):
        loop.run(stop)
    assert consumer.closed
    for thread in [t for t in threading.enumerate() if t not in before and t.name == "consumer-work"]:
        thread.join(10)
        assert not thread.is_alive()


def test_offsets_that_cannot_be_read_are_dead_letters_and_skipped(stop: threading.Event) -> None:
    consumer, handler = FakeConsumer(stop, p0=6, p1=2), Handler()
    consumer.damaged = {(P0, 2), (P0, 3), (P1, 1)}
    letters: list[tuple[int, int]] = []
    failures = deque([Unreachable("the dead-letter topic")])

    def unreadable(tp: TopicPartition, offset: int, error: Exception) -> None:
        if failures:
            raise failures.popleft()
        assert "crc" in str(error)
        letters.append((tp.partition, offset))

    make(consumer, handler, unreadable=unreadable).run(stop)
    assert letters == [(0, 2), (0, 3), (1, 1)]
    assert handler.seen == [(0, 0), (0, 1), (0, 4), (0, 5), (1, 0)]
    assert consumer.committed == {P0: 6, P1: 2}


def test_damage_that_is_found_while_another_partition_is_handled_is_not_forgotten(stop: threading.Event) -> None:
    """kafka-python keeps the error for the next poll, but drops it if the partition is paused then."""
    consumer, handler = FakeConsumer(stop, p0=2, p1=2), Handler()
    consumer.damaged = {(P1, 0)}
    letters: list[tuple[int, int]] = []

    def until_polled() -> None:
        wait_until(lambda: consumer.polls >= 3)

    handler.during = until_polled
    make(consumer, handler, unreadable=lambda tp, offset, _: letters.append((tp.partition, offset))).run(stop)
    assert letters == [(1, 0)]
    assert handler.seen == [(0, 0), (0, 1), (1, 1)]
    assert consumer.committed == {P0: 2, P1: 2}


def test_a_damaged_batch_without_its_partition_ends_the_loop(stop: threading.Event) -> None:
    consumer = FakeConsumer(stop, p0=1)

    def damaged() -> None:
        raise CorruptRecordError("Found invalid number of records")

    consumer.script.append(lambda: None)
    consumer.script.append(damaged)
    with pytest.raises(CorruptRecordError):
        make(consumer, Handler()).run(stop)


def test_reading_begins_where_the_database_says_not_where_kafka_does(stop: threading.Event) -> None:
    consumer, handler = FakeConsumer(stop, p0=4, p1=2), Handler()
    consumer.committed = {P0: 1, P1: 2}
    answers: deque[Any] = deque([Unreachable("locked"), {0: 3}])

    def offsets() -> Mapping[int, int]:
        answer = answers.popleft()
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]

    make(consumer, handler, start_offsets=offsets).run(stop)
    assert sorted(handler.seen) == [(0, 3), (1, 0), (1, 1)], "of partition 1 the database knows nothing"


# Several stages.


class Gate:
    """A stage that logs what passes; it waits until it is open, and raises the next of `failures`."""

    def __init__(self, log: list[tuple[str, list[int]]], name: str) -> None:
        self.log, self.name = log, name
        self.open = threading.Event()
        self.open.set()
        self.failures: deque[Exception] = deque()
        self.breaks_at: int | None = None

    def __call__(self, records: Records) -> Records:
        assert self.open.wait(30)
        if any(r.offset == self.breaks_at for rows in records.values() for r in rows):
            raise ZeroDivisionError("a bug")
        if self.failures:
            raise self.failures.popleft()
        self.log.append((self.name, [r.offset for rows in records.values() for r in rows]))
        return records


STAGES = ("read", "think", "write")


def line(
    consumer: FakeConsumer, log: list[tuple[str, list[int]]], **options: Any
) -> tuple[ConsumerLoop, dict[str, Gate]]:
    consumer.patient = True
    stages = {name: Gate(log, name) for name in STAGES}
    options = {"unreadable": lambda tp, offset, error: None, "pacing": QUICK} | options
    return ConsumerLoop(consumer, "t", stages, retryable=(Unreachable, BrokerError), **options), stages


def offsets(log: list[tuple[str, list[int]]], stage: str) -> list[int]:
    return [offset for name, some in log if name == stage for offset in some]


def test_a_batch_is_read_while_the_one_before_is_written_and_every_stage_keeps_the_order(
    stop: threading.Event,
) -> None:
    consumer, log = FakeConsumer(stop, p0=12), []
    loop, stages = line(consumer, log, batch=1)
    stages["write"].open.clear()
    consumer.script.extend([lambda: None] * 3)

    def open_later() -> None:
        wait_until(lambda: len(offsets(log, "read")) > 2)
        assert offsets(log, "write") == []
        assert consumer.commits == []
        stages["write"].open.set()

    opener = threading.Thread(target=open_later)
    opener.start()
    loop.run(stop)
    opener.join(10)
    for name in STAGES:
        assert offsets(log, name) == list(range(12))
    assert consumer.committed == {P0: 12}
    assert [commit[P0] for commit in consumer.commits] == sorted(commit[P0] for commit in consumer.commits)


def test_no_more_is_read_than_a_few_batches_however_long_a_stage_takes(stop: threading.Event) -> None:
    consumer, log = FakeConsumer(stop, p0=1000), []
    loop, stages = line(consumer, log, batch=4, in_flight=3)
    stages["write"].open.clear()
    at: list[int] = []

    def open_later() -> None:
        wait_until(lambda: len(offsets(log, "read")) > 4)
        polls = consumer.polls
        wait_until(lambda: consumer.polls > polls + 20)
        at.append(consumer.positions[P0])
        stages["write"].open.set()
        stop.set()

    opener = threading.Thread(target=open_later)
    opener.start()
    loop.run(stop)
    opener.join(10)
    # Three batches of at most 4 + 2 under way, and as many gathered for the next.
    assert at[0] <= 4 * 6


def test_a_failing_stage_retries_the_same_batch_and_nothing_overtakes_it(stop: threading.Event) -> None:
    consumer, log = FakeConsumer(stop, p0=10), []
    loop, stages = line(consumer, log, batch=1)
    stages["think"].failures.extend([Unreachable("triton")] * 4)
    loop.run(stop)
    for name in STAGES:
        assert offsets(log, name) == list(range(10)), name
    assert consumer.committed == {P0: 10}
    assert loop.failing is None


def test_a_permanent_error_lets_the_batches_before_it_finish_and_commits_them(
    stop: threading.Event,
) -> None:
    consumer, log = FakeConsumer(stop, p0=10), []
    loop, stages = line(consumer, log, batch=1)
    stages["write"].open.clear()

    stages["read"].breaks_at = 4

    def open_later() -> None:
        wait_until(lambda: loop.error is not None)
        stages["write"].open.set()

    failing = threading.Thread(target=open_later)
    failing.start()
    with pytest.raises(ZeroDivisionError):
        loop.run(stop)
    failing.join(10)
    assert offsets(log, "write") == [0, 1, 2, 3]
    assert consumer.committed == {P0: 4}
    assert consumer.closed


def test_a_partition_that_is_revoked_and_assigned_again_is_read_from_its_last_commit(stop: threading.Event) -> None:
    """Records in flight at the time of the revocation are not committed, although the partition is ours again."""
    consumer, log = FakeConsumer(stop, p0=6, p1=1), []
    loop, stages = line(consumer, log, batch=1)
    stages["write"].open.clear()

    def go() -> None:
        consumer.revoke(P0)

    def come() -> None:
        consumer.assign(P0)
        stages["write"].open.set()

    consumer.script.extend([lambda: None, go, come])
    loop.run(stop)
    assert consumer.committed == {P0: 6, P1: 1}
    assert sorted(set(offsets(log, "write"))) == list(range(6))
    first = consumer.commits[0]
    assert first.get(P0, 2) <= 6


def test_while_a_stage_fails_a_rebalance_drops_all_work_in_flight_and_our_partitions_are_read_again(
    stop: threading.Event,
) -> None:
    consumer, log = FakeConsumer(stop, p0=4, p1=4), []
    _, stages = line(consumer, log, batch=1)
    recovered = threading.Event()

    def failing(records: Records) -> Records:
        if not recovered.is_set():
            raise Unreachable("triton")
        return stages["think"](records)

    loop = ConsumerLoop(
        consumer,
        "t",
        {"read": stages["read"], "think": failing, "write": stages["write"]},
        retryable=(Unreachable,),
        unreadable=lambda tp, offset, error: None,
        batch=1,
        pacing=QUICK,
    )

    still_failing = [lambda: None] * 5
    consumer.script.extend([lambda: None, lambda: None, lambda: consumer.revoke(P0), *still_failing, recovered.set])
    loop.run(stop)
    assert consumer.committed == {P1: 4}


def test_a_damaged_offset_is_skipped_only_after_the_records_before_it_are_written(
    stop: threading.Event,
) -> None:
    consumer, log = FakeConsumer(stop, p0=6), []
    consumer.damaged = {(P0, 3)}
    written_before: list[list[int]] = []

    def unreadable(tp: TopicPartition, offset: int, error: Exception) -> None:
        written_before.append(offsets(log, "write"))

    loop, _ = line(consumer, log, batch=1, unreadable=unreadable)
    loop.run(stop)
    assert written_before == [[0, 1, 2]]
    assert offsets(log, "write") == [0, 1, 2, 4, 5]
    assert consumer.committed == {P0: 6}


def test_records_that_arrive_while_others_are_in_flight_form_one_batch(stop: threading.Event) -> None:
    consumer, log = FakeConsumer(stop, p0=9), []
    consumer.batch = 1
    loop, stages = line(consumer, log, batch=100)
    stages["read"].open.clear()
    opener = threading.Timer(0.02, stages["read"].open.set)
    opener.start()
    loop.run(stop)
    sizes = [len(some) for name, some in log if name == "write"]
    assert sizes[0] == 1, "a lone record waits for nobody"
    assert max(sizes) > 1
    assert offsets(log, "write") == list(range(9))


def test_an_observer_hears_of_stages_retries_and_finished_batches(stop: threading.Event) -> None:
    class Ears(type(NO_OBSERVER)):  # type: ignore[misc]
        def __init__(self) -> None:
            self.done: dict[str, int] = {}
            self.failed: list[str] = []
            self.finished_records = 0

        def stage_done(self, stage: str, records: int, seconds: float) -> None:
            assert seconds >= 0
            self.done[stage] = self.done.get(stage, 0) + records

        def stage_failed(self, stage: str, error: Exception) -> None:
            self.failed.append(f"{stage}: {error}")

        def finished(self, records: int, in_flight: int) -> None:
            self.finished_records += records

    ears = Ears()
    consumer, log = FakeConsumer(stop, p0=6), []
    loop, stages = line(consumer, log, observer=ears)
    stages["think"].failures.append(Unreachable("triton"))
    loop.run(stop)
    assert ears.done == dict.fromkeys(STAGES, 6)
    assert ears.failed == ["think: triton"]
    assert ears.finished_records == loop.handled == 6

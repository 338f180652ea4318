"""Replaying: which messages are sent or skipped, how fast, and what is recorded when the broker fails."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest
from kafka.errors import KafkaTimeoutError, MessageSizeTooLargeError, ProducerFencedError

from streaming.contracts import ERROR_HEADERS
from streaming.dead_letters.letters import Letter, LetterId
from streaming.dead_letters.replay import MAX_BATCH, RateLimiter, Replayer, ReplayResult, dry_run
from streaming.dead_letters.replay_plan import Message, SkipReason, message_of, plan
from streaming.dead_letters.writer import DeadLetterWriter, FailedRecord
from streaming.errors import BrokerError, DeadLetterError
from tests.streaming.builders import NOW, Record
from tests.streaming.dead_letters.builders import event_letter


class Future:
    def __init__(self, result: Any) -> None:
        self.result = result

    def get(self, timeout: float) -> Any:
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


class Place(NamedTuple):
    partition: int
    offset: int


class FakeProducer:
    """Accepts everything except the keys in `refuse` and `refuse_at_once`."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.refuse: dict[bytes, Exception] = {}
        self.refuse_at_once: dict[bytes, Exception] = {}

    def send(self, topic: str, **message: Any) -> Future:
        key = message["key"]
        if error := self.refuse_at_once.get(key):
            raise error
        if key in self.refuse:
            return Future(self.refuse[key])
        self.sent.append({"topic": topic, **message})
        return Future(Place(3, len(self.sent) - 1))

    def flush(self, timeout: float) -> None: ...


class FakeLogProducer(FakeProducer):
    """The transactional producer: what was not committed does not exist."""

    def __init__(self) -> None:
        super().__init__()
        self.committed: list[list[dict[str, Any]]] = []
        self.fail: Exception | None = None

    def begin_transaction(self) -> None:
        self.sent = []

    def commit_transaction(self) -> None:
        if self.fail:
            raise self.fail
        self.committed.append(self.sent)


class FakeReplayLog:
    def __init__(self, done: Sequence[LetterId] = ()) -> None:
        self.done = set(done)
        self.outdated: list[bytes] = []

    def __contains__(self, id: LetterId) -> bool:
        return id in self.done

    def key(self, id: LetterId) -> bytes:
        return str(id).encode()

    def add(self, id: LetterId) -> None:
        self.done.add(id)

    def take_outdated(self) -> list[bytes]:
        outdated, self.outdated = self.outdated, []
        return outdated


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


class Bench:
    """A replayer whose broker is made of fakes."""

    def __init__(self, rate: float = 1000) -> None:
        self.producer, self.log_producer, self.log, self.clock = (
            FakeProducer(),
            FakeLogProducer(),
            FakeReplayLog(),
            Clock(),
        )
        self.replayer = Replayer(
            self.producer, self.log_producer, self.log, rate=rate, clock=self.clock, sleep=self.clock.sleep
        )
        self.skipped: list[tuple[int, str]] = []

    def run(self, letters: Sequence[Letter]) -> ReplayResult:
        return self.replayer.run(
            plan(letters, lambda letter: None, self.log),
            on_skipped=lambda letter, reason: self.skipped.append((letter.id.offset, reason)),
        )

    @property
    def recorded(self) -> list[bytes]:
        return [
            message["key"] for batch in self.log_producer.committed for message in batch if message["value"] is not None
        ]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def no_original(letter: Letter) -> bytes | None:
    raise AssertionError("only a letter that was cut needs its original")


def test_the_message_of_a_letter_is_the_original_and_its_next_failure_continues_the_count() -> None:
    """With the real writer of dead letters, twice: failure, replay, failure, replay."""

    producer = FakeProducer()
    own = [("traceparent", b"00-1"), ("empty", None)]
    record = Record(partition=2, offset=7, key=b"k\xff", value=b"{", headers=own)  # type: ignore[arg-type]
    for attempt in (1, 2):
        DeadLetterWriter(producer, "g", lambda: NOW).send_all([FailedRecord(record, "decode", "E", "m")])
        sent = producer.sent[-1]
        stored = Letter(LetterId(sent["topic"], 0, attempt), NOW, sent["key"], sent["value"], sent["headers"])
        assert stored.attempts == attempt
        message = message_of(stored, no_original)
        assert isinstance(message, Message)
        assert message[:3] == ("catalog.updates", b"k\xff", b"{")
        living = [
            (ERROR_HEADERS + "attempts", str(attempt).encode()),
            (ERROR_HEADERS + "first.time", NOW.isoformat().encode()),
        ]
        assert message.headers == own + living
        record = Record(offset=20 + attempt, key=message.key, value=message.value, headers=message.headers)  # type: ignore[arg-type]


def test_a_dry_run_counts_what_a_replay_would_do() -> None:
    letters = [event_letter(0), event_letter(1), event_letter(2, stage="fetch")]
    reported: list[str] = []
    planned = plan(letters, no_original, FakeReplayLog([letters[0].id]))
    assert dry_run(planned, lambda letter, reason: reported.append(reason)) == (
        1,
        {SkipReason.ALREADY_REPLAYED: 1, SkipReason.UNREADABLE: 1},
    )
    assert reported == [SkipReason.ALREADY_REPLAYED, SkipReason.UNREADABLE]
    assert dry_run(plan(letters, no_original, FakeReplayLog([letters[0].id]), again=True)).replayed == 2


def test_each_letter_is_sent_once_in_its_order_and_recorded_with_its_place(bench: Bench) -> None:
    letters = [event_letter(n) for n in range(2 * MAX_BATCH + 50)]
    bench.log.outdated = [b"old"]
    assert bench.run(letters) == (250, {})
    assert [m["key"] for m in bench.producer.sent] == [one.key for one in letters]
    assert [len([m for m in batch if m["value"]]) for batch in bench.log_producer.committed] == [100, 100, 50]
    first, tombstone = bench.log_producer.committed[0][0], bench.log_producer.committed[0][-1]
    assert first == {"topic": "dlq.replayed", "key": b"events.dlq/0:0", "value": b"events/3:0"}
    assert tombstone == {"topic": "dlq.replayed", "key": b"old", "value": None}
    assert bench.run(letters) == (250, {SkipReason.ALREADY_REPLAYED: 250}), "the second time nothing is sent"
    assert len(bench.producer.sent) == 250


def test_nothing_is_recorded_before_it_is_sent(bench: Bench) -> None:
    """Whenever a replay is killed, at most one batch is sent and not recorded."""
    most = 0

    class Watched(list[Any]):
        def append(self, item: Any) -> None:
            nonlocal most
            super().append(item)
            most = max(most, len(self) - len(bench.recorded))

    bench.producer.sent = Watched()
    bench.run([event_letter(n) for n in range(350)])
    assert most == MAX_BATCH


def test_large_messages_make_small_batches(bench: Bench) -> None:
    bench.run([event_letter(n, value=b"x" * 9_000_000) for n in range(4)])
    assert [len(batch) for batch in bench.log_producer.committed] == [2, 2]


@pytest.mark.parametrize("when", ["refuse", "refuse_at_once"])
def test_a_message_too_large_for_its_topic_is_skipped_and_the_others_go(bench: Bench, when: str) -> None:
    getattr(bench.producer, when)[b"k1"] = MessageSizeTooLargeError()
    assert bench.run([event_letter(n) for n in range(3)]) == (2, {SkipReason.TOO_LARGE: 1})
    assert bench.skipped == [(1, SkipReason.TOO_LARGE)]
    assert bench.recorded == [b"events.dlq/0:0", b"events.dlq/0:2"]


@pytest.mark.parametrize("when", ["refuse", "refuse_at_once"])
def test_a_broker_that_fails_is_an_error_and_accepted_messages_are_recorded(bench: Bench, when: str) -> None:
    getattr(bench.producer, when)[b"k2"] = KafkaTimeoutError()
    with pytest.raises(BrokerError, match=r"KafkaTimeoutError\): 2 letters were replayed; run the same command again"):
        bench.run([event_letter(n) for n in range(3)])
    assert bench.recorded == [b"events.dlq/0:0", b"events.dlq/0:1"]


def test_a_fenced_replay_stops_and_says_how_many_messages_may_be_sent_twice(bench: Bench) -> None:
    bench.log_producer.fail = ProducerFencedError()
    with pytest.raises(DeadLetterError, match=r"stopped after 0 letters \(the last 100 may be sent twice\)"):
        bench.run([event_letter(n) for n in range(300)])
    assert len(bench.producer.sent) == MAX_BATCH
    assert bench.log.done == set()


def test_ctrl_c_records_what_was_sent(bench: Bench) -> None:
    def letters() -> Any:
        yield from (event_letter(n) for n in range(7))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.run(letters())
    assert len(bench.recorded) == 7


@pytest.mark.parametrize("rate", [0.5, 1, 7, 100, 2000])
def test_messages_are_sent_at_the_given_rate(rate: float) -> None:
    bench = Bench(rate)
    count = int(5 * rate) + 1
    bench.run([event_letter(n) for n in range(count)])
    assert bench.clock.now - 100 == pytest.approx((count - 1) / rate)
    assert max(len(batch) for batch in bench.log_producer.committed) == max(1, min(MAX_BATCH, int(rate)))


def test_after_a_pause_there_is_no_burst() -> None:
    clock = Clock()
    limiter = RateLimiter(10, clock, clock.sleep)
    limiter.wait()
    clock.now += 60
    times = []
    for _ in range(3):
        limiter.wait()
        times.append(round(clock.now - 160, 6))
    assert times == [0, 0.1, 0.2]


@pytest.mark.parametrize("rate", [0, -1, float("nan")])
def test_an_invalid_rate_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match=f"rate {rate} must be above 0"):
        Replayer(FakeProducer(), FakeLogProducer(), FakeReplayLog(), rate=rate)

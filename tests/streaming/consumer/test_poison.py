"""The consumer stops before it turns a whole feed into dead letters, and only then."""

from __future__ import annotations

import pytest

from streaming.consumer.poison import PoisonGuard, PoisonLimit
from streaming.errors import PoisonRateError
from tests.streaming.builders import record, update
from tests.streaming.world import World

LIMIT = PoisonLimit(share=0.5, least=200, window_s=60)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def guard(clock: Clock | None = None) -> PoisonGuard:
    return PoisonGuard("catalog.updates", LIMIT, clock or Clock())


def test_more_than_the_share_of_enough_messages_stops_and_says_how_to_continue() -> None:
    counting = guard()
    counting.count(1, 100, 30)
    expected = r"catalog\.updates: 101 of the last 200 .*such as: title: no title.*SHARE=1"
    with pytest.raises(PoisonRateError, match=expected):
        counting.count(2, 100, 71, "title: no title")


def test_the_share_itself_is_allowed() -> None:
    guard().count(1, 200, 100)


def test_few_messages_prove_nothing() -> None:
    guard().count(1, 199, 199)


def test_messages_before_the_window_do_not_count() -> None:
    clock = Clock()
    counting = guard(clock)
    counting.count(1, 150, 150)
    clock.now = 61
    counting.count(2, 150, 150)
    clock.now = 62
    with pytest.raises(PoisonRateError):
        counting.count(3, 150, 150)


def test_a_retried_batch_counts_once() -> None:
    counting = guard()
    for _ in range(5):
        counting.count(7, 100, 100)


def test_the_pipeline_refuses_a_feed_of_garbage_before_any_dead_letter_and_again_after_a_restart() -> None:
    garbage = [record(b"id;title;price", offset) for offset in range(300)]
    for _ in range(2):
        world = World()
        world.pipeline.poison = guard()
        with pytest.raises(PoisonRateError, match="300 of the last 300"):
            world.process(*garbage)


def test_single_bad_messages_are_dead_letters() -> None:
    world = World()
    world.pipeline.poison = guard()
    outcome = world.process(*(record(b"{", n) if n % 3 == 0 else update(f"p{n}", 1) for n in range(300)))
    assert len(outcome.dead_letters) == 100
    assert len(world.topic.compacted()) == 200


def test_the_share_of_the_window_is_available_at_any_time() -> None:
    clock = Clock()
    counting = guard(clock)
    assert counting.share == 0
    counting.count(1, 100, 20)
    clock.now = 30
    counting.count(2, 100, 30)
    assert counting.share == 0.25
    clock.now = 61
    assert counting.share == 0.3, "the first batch lies behind the window"


def test_the_error_that_stopped_the_consumer_is_kept() -> None:
    counting = guard()
    assert counting.tripped is None
    with pytest.raises(PoisonRateError) as raised:
        counting.count(1, 300, 300)
    assert counting.tripped == str(raised.value)

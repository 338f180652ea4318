"""The recall monitor: what it samples, what it may cost, and that its interval is right."""

from __future__ import annotations

import random
import threading

import numpy as np
import pytest

from inference.arrays import Float32Array
from inference.retrieval import Filter, MonitorSettings, RecallMonitor
from tests.waiting import wait_until

QUERIES = np.eye(4, dtype=np.float32)


class FakeIndex:
    """Finds given numbers of products, at a cost in seconds of the test's clock."""

    def __init__(self, answers: list[tuple[int, int]], cost: float = 0.0) -> None:
        self.answers, self.cost, self.now = answers, cost, 0.0
        self.asked: list[tuple[Float32Array, int, Filter | None]] = []

    def agreement(self, query: Float32Array, k: int, where: Filter | None = None) -> tuple[int, int]:
        self.asked.append((query, k, where))
        self.now += self.cost
        return self.answers[(len(self.asked) - 1) % len(self.answers)]


def watching(index: FakeIndex, chance: float = 0.0, **settings: float) -> RecallMonitor:
    return RecallMonitor(
        lambda: index,  # type: ignore[arg-type, return-value]
        MonitorSettings(**settings),  # type: ignore[arg-type]
        chance=lambda: chance,
        clock=lambda: index.now,
    )


def test_before_the_first_check_the_estimate_is_empty() -> None:
    monitor = watching(FakeIndex([]))
    assert monitor.estimate() == (None, None, None, 0, 0, 0)
    assert monitor.check() is None


def test_a_share_of_the_live_queries_is_checked_with_their_filters() -> None:
    index = FakeIndex([(10, 10)])
    draws = random.Random(0)
    monitor = RecallMonitor(
        lambda: index,  # type: ignore[arg-type, return-value]
        MonitorSettings(share=0.1, waiting=10_000, busy=1.0),
        chance=draws.random,
        clock=lambda: index.now,
    )
    where = Filter(in_stock=True)
    for _ in range(500):
        monitor.observe(QUERIES, 7, where)
    while monitor.check() is not None:
        pass
    estimate = monitor.estimate()
    assert estimate.seen == 2_000
    assert 150 <= estimate.checked <= 250
    assert all((k, w) == (7, where) for _, k, w in index.asked)


def test_a_zero_query_is_not_judged_and_queries_are_copied() -> None:
    index = FakeIndex([(1, 1)])
    monitor = watching(index)
    queries = np.stack([QUERIES[0], np.zeros(4, np.float32)])
    monitor.observe(queries, 1)
    queries[:] = 9.0
    assert monitor.check() is not None
    assert monitor.check() is None
    np.testing.assert_array_equal(index.asked[0][0], QUERIES[0])


def test_checking_takes_no_more_than_its_share_of_the_time() -> None:
    index = FakeIndex([(10, 10)], cost=0.02)
    monitor = watching(index, busy=0.01, waiting=8)
    while index.now < 100.0:
        monitor.observe(QUERIES, 10)
        if (pause := monitor.check()) is not None:
            index.now += min(pause, 0.05)
    assert 48 <= len(index.asked) <= 51, "one check of 20 ms in each 2 s"
    estimate = monitor.estimate()
    assert 0 <= estimate.seen - estimate.checked - estimate.dropped <= 8


def test_the_newest_of_the_waiting_queries_stay() -> None:
    index = FakeIndex([(1, 1)])
    monitor = watching(index, waiting=2)
    monitor.observe(QUERIES, 1)
    while monitor.check() is not None:
        pass
    np.testing.assert_array_equal([query for query, _, _ in index.asked], QUERIES[2:])
    assert monitor.estimate().dropped == 2


def test_the_estimate_is_the_mean_with_wilsons_interval() -> None:
    index = FakeIndex([(8, 10), (10, 10)])
    monitor = watching(index, waiting=1_000, busy=1.0)
    for _ in range(25):
        monitor.observe(QUERIES, 10)
    while monitor.check() is not None:
        pass
    recall, low, high, checked, _, _ = monitor.estimate()
    assert (recall, checked) == (pytest.approx(0.9), 100)
    # Wilson's interval for 90 of 100 from statsmodels: proportion_confint(90, 100, method="wilson").
    from statsmodels.stats.proportion import proportion_confint

    assert (low, high) == pytest.approx(proportion_confint(90, 100, method="wilson"), abs=1e-6)


def test_the_interval_covers_the_truth_though_neighbours_of_a_query_fail_together() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        answers = [(10, 10) if rng.random() < 0.9 else (0, 10) for _ in range(120)]
        monitor = watching(FakeIndex(answers), waiting=1_000, busy=1.0)
        for _ in range(30):
            monitor.observe(QUERIES, 10)
        while monitor.check() is not None:
            pass
        _, low, high, _, _, _ = monitor.estimate()
        assert low is not None
        assert high is not None
        covered += low <= 0.9 <= high
    assert covered >= 180


def test_only_the_last_queries_count() -> None:
    monitor = watching(FakeIndex([(0, 10)] * 4 + [(10, 10)] * 4), window=4)
    for _ in range(2):
        monitor.observe(QUERIES, 10)
        while monitor.check() is not None:
            pass
    assert monitor.estimate()[:1] + monitor.estimate()[3:] == (1.0, 4, 8, 0)


def test_an_empty_answer_is_no_evidence() -> None:
    monitor = watching(FakeIndex([(0, 0)]))
    monitor.observe(QUERIES, 10)
    while monitor.check() is not None:
        pass
    assert monitor.estimate() == (None, None, None, 0, 4, 0)


def test_the_estimate_starts_again_when_another_index_answers() -> None:
    old, new = FakeIndex([(0, 10)]), FakeIndex([(10, 10)])
    live = [old]
    monitor = RecallMonitor(
        lambda: live[0],  # type: ignore[arg-type, return-value]
        MonitorSettings(busy=1.0),
        chance=lambda: 0.0,
        clock=lambda: 0.0,
    )
    for _ in range(2):
        monitor.observe(QUERIES, 10)
    for number in range(8):
        if number == 5:
            live[0] = new
        monitor.check()
    assert monitor.estimate()[:1] + monitor.estimate()[3:4] == (1.0, 3)


def test_in_the_background_queries_are_judged_until_it_is_stopped() -> None:
    index = FakeIndex([(9, 10)])
    monitor = watching(index, busy=1.0)
    stop = threading.Event()
    thread = threading.Thread(target=monitor.run, args=(stop,))
    thread.start()
    monitor.observe(QUERIES, 10)
    wait_until(lambda: monitor.estimate().checked >= 4, "four judged queries")
    stop.set()
    thread.join(10)
    assert not thread.is_alive()
    assert monitor.estimate().recall == pytest.approx(0.9)

"""The online recall monitor: a share of the live queries is asked again, by exact search, off the serving path."""

from __future__ import annotations

import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from inference.arrays import Float32Array
from inference.retrieval.filters import Filter
from inference.retrieval.index import RetrievalIndex

_Z95 = 1.959964


class RecallEstimate(NamedTuple):
    """Recall@k over the last checked queries, with a 95 % interval; None before the first.

    The interval is Wilson's with each query as one observation: a query's recall lies between 0 and 1, and so varies no
    more than a coin of the same mean, however its k neighbours hang together. It errs on the wide side.
    """

    recall: float | None
    low: float | None
    high: float | None
    checked: int  # queries behind the estimate
    seen: int  # live queries since the start
    dropped: int  # chosen to be checked, but there was no time


class MonitorSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the monitor may cost and how far it looks back."""

    share: float = 0.01  # of live queries that are checked
    busy: float = 0.01  # of one core's time that checking may take, whatever an exact search costs
    waiting: int = 16  # chosen queries kept until their turn; the oldest gives way
    window: int = 1_000  # checked queries that the estimate covers


class RecallMonitor:
    """Samples live queries and judges them one by one.

    Each chosen query is asked twice at the moment of its check, approximately and exactly, over the same products:
    an answer given a second ago is not blamed for a product that came since.

    Args:
        index: what answers now; called at each check, so that a switch of versions is followed. The estimate starts
            anew when another index answers.
        chance: uniform numbers from 0 to 1.
        clock: seconds.
    """

    def __init__(
        self,
        index: Callable[[], RetrievalIndex],
        settings: MonitorSettings | None = None,
        *,
        chance: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings or MonitorSettings()
        self._index, self._chance, self._clock = index, chance, clock
        self._waiting: deque[tuple[Float32Array, int, Filter | None]] = deque()
        self._checked: deque[float] = deque(maxlen=self.settings.window)
        self._judged: RetrievalIndex | None = None
        self._seen = self._dropped = 0
        self._rest_until = -math.inf
        self._changed = threading.Condition()

    def observe(self, queries: Float32Array, k: int, where: Filter | None = None) -> None:
        """Tell of live queries `[B, 256]`. Cheap: draws a number for each, and copies those chosen."""
        for query in queries:
            with self._changed:
                self._seen += 1
                if self._chance() >= self.settings.share or not query.any():
                    continue
                if len(self._waiting) >= self.settings.waiting:
                    self._waiting.popleft()
                    self._dropped += 1
                self._waiting.append((query.copy(), k, where))
                self._changed.notify()

    def check(self) -> float | None:
        """Judge one waiting query if the budget allows.

        Returns:
            Seconds until another may be judged; None when none waits.
        """
        with self._changed:
            if not self._waiting:
                return None
            started = self._clock()
            if started < self._rest_until:
                return self._rest_until - started
            query, k, where = self._waiting.popleft()
        index = self._index()
        found, there = index.agreement(query, k, where)
        with self._changed:
            ended = self._clock()
            self._rest_until = ended + (ended - started) * (1 / self.settings.busy - 1)
            if index is not self._judged:
                self._judged = index
                self._checked.clear()
            if there:
                self._checked.append(found / there)
            return self._rest_until - ended

    def run(self, stop: threading.Event) -> None:
        """Judge until stopped: the body of a background thread."""
        while not stop.is_set():
            pause = self.check()
            if pause is None:
                with self._changed:
                    self._changed.wait_for(lambda: self._waiting or stop.is_set(), 0.5)
            else:
                stop.wait(pause)

    def estimate(self) -> RecallEstimate:
        """How well the index finds what it should, lately."""
        with self._changed:
            checked, seen, dropped = list(self._checked), self._seen, self._dropped
        n = len(checked)
        if not n:
            return RecallEstimate(None, None, None, 0, seen, dropped)
        mean = sum(checked) / n
        centre = (mean + _Z95**2 / (2 * n)) / (1 + _Z95**2 / n)
        half = _Z95 / (1 + _Z95**2 / n) * math.sqrt(max(0.0, mean * (1 - mean)) / n + _Z95**2 / (4 * n**2))
        return RecallEstimate(mean, max(0.0, centre - half), min(1.0, centre + half), n, seen, dropped)

"""Estimate the recall of live queries: a share of them is searched again exactly, off the serving path."""

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
    """Recall@k over the last checked queries, with a 95 % interval.

    The interval is Wilson's with each query as one observation. A query's recall lies between 0 and 1, so its variance
    is at most that of a coin with the same mean, however its k neighbours correlate. So the interval is too wide rather
    than too narrow.

    Attributes:
        recall: The estimate; None before the first checked query.
        low: Lower end of the interval; None before the first checked query.
        high: Upper end of the interval; None before the first checked query.
        checked: Number of queries behind the estimate.
        seen: Number of live queries since the start.
        dropped: Number of queries that were chosen for a check and dropped for lack of time.
    """

    recall: float | None
    low: float | None
    high: float | None
    checked: int
    seen: int
    dropped: int


class MonitorSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of the monitor's cost, and the number of queries that its estimate covers."""

    share: float = 0.01  # share of live queries that are checked
    busy: float = 0.01  # largest share of one core's time for checks, for any cost of an exact search
    waiting: int = 16  # largest number of waiting queries; the oldest of more is dropped
    window: int = 1_000  # number of checked queries that the estimate covers


class RecallMonitor:
    """Samples live queries and checks them one by one. Threads may share a monitor.

    A check searches approximately and exactly over the same products. So a product that arrived after the live answer
    does not make that answer wrong.

    Args:
        index: Returns the index that answers now; called at each check. The estimate starts again when it is another
            index.
        settings: Limits of the monitor's cost; None for the defaults.
        chance: Returns random numbers from 0 to 1.
        clock: Returns the time in seconds.
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
        self._checked_index: RetrievalIndex | None = None
        self._seen = self._dropped = 0
        self._rest_until = -math.inf
        self._changed = threading.Condition()

    def observe(self, queries: Float32Array, k: int, where: Filter | None = None) -> None:
        """Record live queries. Cheap: draws a random number for each query and copies the chosen ones.

        Args:
            queries: `[B, 256]`.
            k: Number of products that the queries asked for.
            where: Filter of the queries.
        """
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
        """Check one waiting query if the budget allows it.

        Returns:
            Seconds until the next check is allowed; None if no query waits.
        """
        with self._changed:
            if not self._waiting:
                return None
            started = self._clock()
            if started < self._rest_until:
                return self._rest_until - started
            query, k, where = self._waiting.popleft()
        index = self._index()
        hits, nearest = index.agreement(query, k, where)
        with self._changed:
            ended = self._clock()
            self._rest_until = ended + (ended - started) * (1 / self.settings.busy - 1)
            if index is not self._checked_index:
                self._checked_index = index
                self._checked.clear()
            if nearest:
                self._checked.append(hits / nearest)
            return self._rest_until - ended

    def run(self, stop: threading.Event) -> None:
        """Check queries until `stop` is set: the body of a background thread."""
        while not stop.is_set():
            pause = self.check()
            if pause is None:
                with self._changed:
                    self._changed.wait_for(lambda: self._waiting or stop.is_set(), 0.5)
            else:
                stop.wait(pause)

    def estimate(self) -> RecallEstimate:
        """Return the estimate over the last checked queries."""
        with self._changed:
            checked, seen, dropped = list(self._checked), self._seen, self._dropped
        n = len(checked)
        if not n:
            return RecallEstimate(None, None, None, 0, seen, dropped)
        mean = sum(checked) / n
        centre = (mean + _Z95**2 / (2 * n)) / (1 + _Z95**2 / n)
        half = _Z95 / (1 + _Z95**2 / n) * math.sqrt(max(0.0, mean * (1 - mean)) / n + _Z95**2 / (4 * n**2))
        return RecallEstimate(mean, max(0.0, centre - half), min(1.0, centre + half), n, seen, dropped)

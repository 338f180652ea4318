"""Protection against poisoned topics: the consumer stops when most messages cannot be used.

Dead letters are for single bad messages. If a whole feed switches to another format, it would turn into dead letters
while the consumer looked healthy and its lag stayed small. So the consumer stops instead, without committing the
messages at fault. After a restart it stops at the same place, until the producer is fixed or an operator lets the
consumer continue.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from streaming.errors import PoisonRateError


@dataclass(frozen=True)
class PoisonLimit:
    """How many refused messages stop the consumer.

    Attributes:
        share: Largest share of refused messages that is tolerated.
        least: Number of messages in the window below which the share is not checked.
        window_s: Length of the window, in seconds.
    """

    share: float = 0.5
    least: int = 200
    window_s: float = 60.0


class PoisonGuard:
    """Counts read and refused messages; raises at the first batch that brings the share above the limit.

    Args:
        topic: The topic that is read, for the error message.
        limit: When to stop.
        clock: Seconds, such as `time.monotonic`.

    Attributes:
        tripped: The text of the raised error; None if none was raised.
    """

    def __init__(self, topic: str, limit: PoisonLimit, clock: Callable[[], float] = time.monotonic) -> None:
        self._topic, self._limit, self._clock = topic, limit, clock
        self._batches: deque[tuple[float, Hashable, int, int]] = deque()  # time, key, read, refused
        self.tripped: str | None = None

    @property
    def share(self) -> float:
        """Share of refused messages within the window; 0 for an empty window. Safe to read from any thread."""
        since = self._clock() - self._limit.window_s
        batches = [batch for batch in tuple(self._batches) if batch[0] >= since]
        return sum(n for *_, n in batches) / max(1, sum(n for *_, n, _ in batches))

    def count(self, key: Hashable, read: int, refused: int, example: str = "") -> None:
        """Count a batch once, however often it is retried.

        Args:
            key: Identifies the batch, so that a retry is not counted again.
            read: Number of messages in the batch.
            refused: Number of those that cannot be used.
            example: Why one of them was refused.

        Raises:
            PoisonRateError: The share is above the limit; the error says how to continue.
        """
        now = self._clock()
        while self._batches and self._batches[0][0] < now - self._limit.window_s:
            self._batches.popleft()
        if not self._batches or self._batches[-1][1] != key:
            self._batches.append((now, key, read, refused))
        total = sum(n for *_, n, _ in self._batches)
        bad = sum(n for *_, n in self._batches)
        if total >= self._limit.least and bad > self._limit.share * total:
            such = f" (such as: {example})" if example else ""
            self.tripped = (
                f"{self._topic}: {bad} of the last {total} messages cannot be used{such}, more than "
                f"{self._limit.share:.0%} within {self._limit.window_s:g} s; the consumer stops before it turns a "
                "whole feed into dead letters. Fix the producer, then reset the group's offsets past the bad messages, "
                "or start once with SAGELIFT_POISON__SHARE=1 to send them all to the dead letters"
            )
            raise PoisonRateError(self.tripped)

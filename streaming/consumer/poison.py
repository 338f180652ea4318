"""When most of what arrives cannot be used, something upstream is broken: stop, rather than drain the topic.

A dead letter is for the odd message. A feed that was switched to another format would become dead letters as a whole,
while the consumer looked healthy and its lag small. The message at fault is not committed: a consumer that is started
again stops at the same place, until the producer is mended or a person says that it is to go on.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from streaming.errors import PoisonRateError


@dataclass(frozen=True)
class PoisonLimit:
    """Too many: more than `share` of at least `least` messages that were read within the last `window_s` seconds."""

    share: float = 0.5
    least: int = 200
    window_s: float = 60.0


class PoisonGuard:
    """Counts what was read and what was refused; raises at the first batch that brings the share above the limit.

    A batch is counted once, when it is first decoded: `key` tells an attempt made again from another batch.

    Attributes:
        tripped: what it raised, once it did.
    """

    def __init__(self, topic: str, limit: PoisonLimit, clock: Callable[[], float] = time.monotonic) -> None:
        self._topic, self._limit, self._clock = topic, limit, clock
        self._batches: deque[tuple[float, Hashable, int, int]] = deque()  # when, key, read, refused
        self.tripped: str | None = None

    @property
    def share(self) -> float:
        """Of the messages within the window, how many were refused; 0 when there are none. For any thread."""
        since = self._clock() - self._limit.window_s
        batches = [batch for batch in tuple(self._batches) if batch[0] >= since]
        return sum(n for *_, n in batches) / max(1, sum(n for *_, n, _ in batches))

    def count(self, key: Hashable, read: int, refused: int, example: str = "") -> None:
        """A batch of `read` messages of which `refused` cannot be used, one of them for the reason `example`.

        Raises:
            PoisonRateError: that is too many; says how to go on.
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
                f"{self._limit.share:.0%} within {self._limit.window_s:g} s; the consumer stops before it makes dead "
                "letters of a whole feed. Mend what sends them, then reset the group's offsets past what was sent, or "
                "start once with SAGELIFT_POISON__SHARE=1 to have it all as dead letters"
            )
            raise PoisonRateError(self.tripped)

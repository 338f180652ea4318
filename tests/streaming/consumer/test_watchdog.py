"""The watchdog ends a process whose poll does not return."""

from __future__ import annotations

import threading
import time
from typing import Any

from streaming.consumer.watchdog import watch


class StuckLoop:
    """What the watchdog reads of a `ConsumerLoop`."""

    topic = "t"
    last_poll = time.monotonic() - 100


def test_the_watchdog_acts_when_no_poll_returns_and_only_then() -> None:
    loop: Any = StuckLoop()
    stop, ended = threading.Event(), []
    watch(loop, stop, limit_s=0.2, end=lambda: ended.append("stuck"))
    assert ended == ["stuck"]
    loop.last_poll = time.monotonic()
    stop.set()
    watch(loop, stop, limit_s=0.2, end=lambda: ended.append("again"))
    assert ended == ["stuck"]

"""A watchdog for polls that do not return: kafka-python can spin forever, and only a new process helps."""

from __future__ import annotations

import faulthandler
import logging
import os
import threading
import time
from collections.abc import Callable

from streaming.consumer.loop import ConsumerLoop

log = logging.getLogger(__name__)

STUCK_S = 120.0
"""How long a poll may take, in seconds: far longer than any wait of the loop."""


def watch(loop: ConsumerLoop, stop: threading.Event, *, limit_s: float = STUCK_S, end: Callable[[], None]) -> None:
    """Watch a loop until it is stopped.

    Args:
        loop: The loop to watch.
        stop: Ends the watch.
        limit_s: How long a poll may take, in seconds.
        end: Called once when a poll has not returned within the limit.
    """
    while not stop.wait(min(1.0, limit_s / 4)):
        if time.monotonic() - loop.last_poll > limit_s:
            log.critical("%s: no poll returned for %.0f s", loop.topic, limit_s)
            end()
            return


def end_process() -> None:
    """Print the stack of every thread to stderr, then end the process without waiting for any of them."""
    faulthandler.dump_traceback()
    os._exit(70)

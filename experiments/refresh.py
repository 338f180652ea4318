"""A background thread that keeps something fresh: the configs of an assigner, or the API keys of a server."""

import random
import threading
from collections.abc import Callable
from typing import Final

_JITTER: Final = 0.1  # share of the interval: replicas that start together must not ask the store together


class Refresher:
    """Calls a function in its own thread: at once, then at intervals, and on demand.

    Args:
        refresh: Returns whether the refresh worked. It must not raise.
        interval_s: Seconds between two calls, give or take 10 %.

    Attributes:
        loaded: Set when `refresh` has returned True for the first time.
    """

    def __init__(self, refresh: Callable[[], bool], interval_s: float) -> None:
        self._refresh = refresh
        self._interval_s = interval_s
        self._woken = threading.Event()
        self._closed = False
        self.loaded = threading.Event()
        # A daemon, so that a load that never returns does not keep the process alive.
        self._thread = threading.Thread(target=self._run, name="config-refresher", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Ask for a refresh now, and return at once. Any thread may call it."""
        self._woken.set()

    def close(self, timeout_s: float) -> None:
        """End the thread.

        Args:
            timeout_s: Maximum time to wait for it in seconds.
        """
        self._closed = True
        self._woken.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._closed:
            self._woken.clear()  # before the load: a change during the load causes another one
            if self._refresh():
                self.loaded.set()
            if not self._closed:
                self._woken.wait(self._interval_s * random.uniform(1 - _JITTER, 1 + _JITTER))

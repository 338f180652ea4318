"""A fair lock."""

from __future__ import annotations

import threading


class FairLock:
    """A lock that threads get in turn: a thread that acquires it again first waits for the threads already waiting.

    It is not reentrant. Use it in a `with` statement.
    """

    def __init__(self) -> None:
        self._queue, self._lock = threading.Lock(), threading.Lock()

    @property
    def contended(self) -> bool:
        """Whether another thread waits for the lock."""
        return self._queue.locked()

    def __enter__(self) -> None:
        with self._queue:
            self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

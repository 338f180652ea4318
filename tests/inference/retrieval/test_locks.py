"""The fair lock."""

from __future__ import annotations

import threading

from inference.retrieval.locks import FairLock


def test_a_thread_that_waits_gets_the_lock_before_its_holder_gets_it_again() -> None:
    lock, order = FairLock(), []
    waiting = threading.Event()

    def wait() -> None:
        waiting.set()
        with lock:
            order.append("waiting")

    other = threading.Thread(target=wait)
    with lock:
        other.start()
        assert waiting.wait(10)
        while not lock.contended:
            pass
    with lock:
        order.append("holder")
    other.join(10)
    assert order == ["waiting", "holder"]

"""The background refresh runs at once and on demand, and loses no wake-up."""

import threading

from experiments.refresh import Refresher
from tests.waiting import wait_until


def test_a_change_during_a_refresh_causes_another_refresh() -> None:
    """A wake-up during a load is not lost."""
    entered, opened, loads = threading.Event(), threading.Event(), []

    def refresh() -> bool:
        loads.append(1)
        entered.set()
        return opened.wait(20)

    refresher = Refresher(refresh, 3_600)
    assert entered.wait(20)
    refresher.wake()
    opened.set()
    wait_until(lambda: len(loads) == 2)
    refresher.close(5)

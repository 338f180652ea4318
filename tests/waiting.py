"""Wait for a condition with a deadline, instead of sleeping."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(
    condition: Callable[[], object],
    what: str = "the condition did not become true in time",
    *,
    timeout_s: float = 20,
    pause_s: float = 0.01,
) -> None:
    """Poll until the condition is true; fail with `what` after the deadline."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(pause_s)

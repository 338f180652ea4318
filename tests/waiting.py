"""Wait for a condition with a deadline, instead of sleeping."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(
    condition: Callable[[], object],
    what: str = "the condition",
    *,
    timeout_s: float = 30,
    pause_s: float = 0.01,
) -> None:
    """Poll until the condition is true; after the deadline, fail with what was waited for."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s:.0f} s in vain for {what}"
        time.sleep(pause_s)

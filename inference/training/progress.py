"""The callback that follows a training."""

from __future__ import annotations

from collections.abc import Callable

OnProgress = Callable[[str, int, int], None]
"""Called with the name of the stage, the number of steps done and the number of all steps."""


def no_progress(stage: str, done: int, total: int) -> None:
    """Ignore the progress."""

"""Waits of the demo for its consumers and its index, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from sagelift.errors import DemoError
from sagelift.progress import Stage
from sagelift.services import CATALOG_GROUP, EVENTS_GROUP, Services

if TYPE_CHECKING:
    from streaming.vectors.follower import IndexFollower

_CATCH_UP_S = 60


def wait_for_updates(services: Services, expected: int, stage: Stage, timeout_s: float = 120) -> None:
    """Wait until the catalogue consumer has consumed `catalog.updates`.

    Args:
        services: Services of the demo.
        expected: Number of updates, for the progress if the broker does not know a lag yet.
        stage: Shows the progress.
        timeout_s: Deadline in seconds.

    Raises:
        DemoError: The deadline has passed.
    """
    from streaming.kafka.topics import CATALOG_UPDATES

    _wait_for_group(services, CATALOG_GROUP, CATALOG_UPDATES, expected, stage, timeout_s)


def wait_for_events(services: Services, stage: Stage) -> None:
    """Wait until the event sink has consumed `events`; raises DemoError after 300 s."""
    from streaming.kafka.topics import EVENTS

    _wait_for_group(services, EVENTS_GROUP, EVENTS, 0, stage, 300)


def catch_up(follower: IndexFollower) -> None:
    """Wait until the index has all embeddings of the topic; raises DemoError after 60 s."""
    if not follower.catch_up(_CATCH_UP_S):
        raise DemoError(f"the index did not catch up with product.embeddings within {_CATCH_UP_S} s")


def _wait_for_group(services: Services, group: str, topic: str, expected: int, stage: Stage, timeout_s: float) -> None:
    from streaming.kafka.lag import LagMeter

    with LagMeter(services.kafka, group, topic) as meter:
        total = meter.lag() or expected

        def done() -> bool:
            lag = meter.lag()
            stage.update(max(0, total - lag), total, f"{topic} consumed")
            return lag == 0

        logs = services.settings.state / "workers"
        wait_for(done, f"{group} to consume {topic}; see {logs}", timeout_s, pause_s=0.2)


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float, pause_s: float = 0.1) -> None:
    """Poll until the condition is true.

    Args:
        condition: The condition.
        what: Name of the expected event, for the error message.
        timeout_s: Deadline in seconds.
        pause_s: Seconds between two polls.

    Raises:
        DemoError: The deadline has passed.
    """
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            raise DemoError(f"gave up waiting for {what} after {timeout_s:.0f} s")
        time.sleep(pause_s)

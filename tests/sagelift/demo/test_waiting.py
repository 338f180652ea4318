"""The demo's waits end when their condition is true, or at their deadline with what they waited for."""

from __future__ import annotations

import pytest

from sagelift.demo.waiting import catch_up, wait_for
from sagelift.errors import DemoError


class Follower:
    """Follows an index that catches up, or does not."""

    def __init__(self, catches_up: bool) -> None:
        self._catches_up = catches_up

    def catch_up(self, timeout_s: float) -> bool:
        return self._catches_up and timeout_s > 0


def test_a_condition_is_polled_until_it_is_true() -> None:
    answers = iter([False, False, True])
    wait_for(lambda: next(answers), "the third answer", timeout_s=60, pause_s=0)
    assert list(answers) == []


def test_a_passed_deadline_names_what_was_waited_for() -> None:
    with pytest.raises(DemoError, match="gave up waiting for the event sink after 0 s"):
        wait_for(lambda: False, "the event sink", timeout_s=0, pause_s=0)


def test_an_index_that_does_not_catch_up_is_an_error() -> None:
    catch_up(Follower(True))  # type: ignore[arg-type]
    with pytest.raises(DemoError, match=r"did not catch up with product\.embeddings"):
        catch_up(Follower(False))  # type: ignore[arg-type]

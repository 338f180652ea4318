from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from feature_repo.errors import InvalidFeatureError
from feature_repo.jobs.request import Request
from feature_repo.times import to_microseconds
from tests.feature_repo.builders import NOON


@pytest.mark.parametrize(
    ("options", "mode"),
    [({}, "new"), ({"full": True}, "full"), ({"since": NOON}, "window"), ({"until": NOON}, "window")],
)
def test_the_mode_follows_from_the_options(options: dict[str, Any], mode: str) -> None:
    request = Request(**options)
    request.check(["a"])
    assert request.mode == mode


def test_a_window_is_in_microseconds() -> None:
    request = Request(since=NOON)
    assert (request.since_us, request.until_us) == (to_microseconds(NOON), None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"views": ["a", "nope"]}, r"Unknown views \['nope'\]: the views are a, b"),
        ({"since": datetime(2026, 1, 1)}, "since 2026-01-01T00:00:00 has no time zone"),
        ({"until": datetime(2026, 1, 1)}, "until .* has no time zone"),
        ({"since": NOON, "until": NOON - timedelta(seconds=1)}, "lies after until"),
        ({"since": NOON, "full": True}, "full reads the whole history"),
    ],
)
def test_wrong_requests_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidFeatureError, match=message):
        Request(**options).check(["a", "b"])

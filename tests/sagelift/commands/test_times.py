"""Times on the command line: ISO 8601, or how long ago; one message for what cannot be read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
import typer

from feature_repo.times import to_microseconds
from sagelift.commands.times import parse_duration, parse_time, time_text

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("90s", NOW - timedelta(seconds=90)),
        ("15m", NOW - timedelta(minutes=15)),
        ("2h", NOW - timedelta(hours=2)),
        ("7d", NOW - timedelta(days=7)),
        ("1w", NOW - timedelta(weeks=1)),
        ("2026-05-01", datetime(2026, 5, 1, tzinfo=UTC)),
        ("2026-05-01T10:30", datetime(2026, 5, 1, 10, 30, tzinfo=UTC)),
        ("2026-05-01T10:30Z", datetime(2026, 5, 1, 10, 30, tzinfo=UTC)),
        ("2026-05-01T10:30+02:00", datetime(2026, 5, 1, 10, 30, tzinfo=timezone(timedelta(hours=2)))),
    ],
)
def test_a_time_is_a_date_or_how_long_ago(text: str, time: datetime) -> None:
    assert parse_time(text, "--since", naive_is_utc=True, now=NOW) == time


@pytest.mark.parametrize("text", ["", "h", "-2h", "1.5h", "2 h", "99999999999999d", "٣h", "2026-13-01", "12:30"])
def test_what_is_not_a_time_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match=r"is not a time; write .* how long ago") as raised:
        parse_time(text, "--since", naive_is_utc=True, now=NOW)
    assert raised.value.param_hint == "--since"


def test_a_time_without_a_zone_is_refused_unless_it_means_utc() -> None:
    with pytest.raises(typer.BadParameter, match="'2026-05-01T10:30' has no time zone; add one, such as Z for UTC"):
        parse_time("2026-05-01T10:30", "--at")
    assert parse_time("2026-05-01T10:30", naive_is_utc=True).tzinfo is UTC


def test_how_long_ago_needs_a_command_that_allows_it() -> None:
    with pytest.raises(typer.BadParameter, match=r"'2h' is not a time; write 2026-03-01T12:00:00Z$"):
        parse_time("2h", "--at")


@pytest.mark.parametrize(
    ("text", "duration"),
    [("90m", timedelta(minutes=90)), ("1.5h", timedelta(minutes=90)), ("2d", timedelta(days=2))],
)
def test_a_duration_is_a_number_and_a_unit(text: str, duration: timedelta) -> None:
    assert parse_duration(text) == duration


@pytest.mark.parametrize("text", ["", "h", "1 week", "-1h", "1", "99999999999999d"])
def test_what_is_not_a_duration_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is not a duration; write a number and s, m, h, d or w"):
        parse_duration(text, "--max-age")


def test_microseconds_are_printed_as_the_time_they_came_from() -> None:
    time = datetime(2026, 5, 1, 12, 30, tzinfo=timezone(timedelta(hours=2)))
    assert time_text(to_microseconds(time)) == "2026-05-01T10:30:00+00:00"
    assert time_text(None) == "-"

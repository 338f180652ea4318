from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from feature_repo.times import EPOCH, from_microseconds, parse_time, to_microseconds

NOON = datetime(2026, 3, 1, 12, 0, 0, 123_457, tzinfo=UTC)


@pytest.mark.parametrize("at", [EPOCH, NOON, datetime(1960, 1, 1, 0, 0, 0, 1, tzinfo=UTC)])
def test_microseconds_and_times_convert_without_loss(at: datetime) -> None:
    assert from_microseconds(to_microseconds(at)) == at


def test_microseconds_count_from_the_unix_epoch_in_utc() -> None:
    assert to_microseconds(EPOCH + timedelta(seconds=2, microseconds=3)) == 2_000_003
    assert to_microseconds(NOON.astimezone(timezone(timedelta(hours=5)))) == to_microseconds(NOON)
    assert from_microseconds(1).tzinfo is UTC


def test_a_time_without_a_zone_counts_as_utc() -> None:
    assert to_microseconds(NOON.replace(tzinfo=None)) == to_microseconds(NOON)


@pytest.mark.parametrize(
    "text", ["2026-03-01T12:00:00.123457Z", "2026-03-01T13:00:00.123457+01:00", "20260301T120000.123457Z"]
)
def test_iso_8601_is_parsed_with_its_zone(text: str) -> None:
    assert parse_time(text) == NOON


def test_a_zone_can_be_given_for_texts_without_one() -> None:
    assert parse_time("2026-03-01T12:00:00.123457", UTC) == NOON
    assert parse_time("2026-03-01", UTC) == datetime(2026, 3, 1, tzinfo=UTC)
    assert parse_time("2026-03-01T13:00:00.123457+01:00", UTC) == NOON


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("yesterday", "'yesterday' is not a time: write it as 2026-"),
        ("2026-02-30T00:00Z", "is not a time"),
        ("2026-03-01T12:00", "has no time zone: add one, such as Z"),
        ("", "'' is not a time"),
    ],
)
def test_an_unusable_text_is_refused_with_a_remedy(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_time(text)

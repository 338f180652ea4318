"""Times keep their microseconds, in any time zone."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from analysis.times import DAY, describe_length, microseconds, since_epoch, to_datetime


@pytest.mark.parametrize("value", [0, 1, 1_780_272_000_000_001, -1, 253_402_300_799_999_999])
def test_microseconds_come_back_exactly(value: int) -> None:
    assert since_epoch(to_datetime(value)) == value


def test_the_time_zone_does_not_change_the_instant() -> None:
    utc = datetime(2026, 6, 1, 12, tzinfo=UTC)
    assert since_epoch(utc.astimezone(timezone(timedelta(hours=5)))) == since_epoch(utc)
    assert microseconds(timedelta(days=1)) == DAY


@pytest.mark.parametrize(
    ("length", "text"),
    [
        (timedelta(days=1), "1 day"),
        (timedelta(days=14), "14 days"),
        (timedelta(hours=6), "6 hours"),
        (timedelta(minutes=5), "5 minutes"),
    ],
)
def test_a_length_is_described_in_the_largest_unit_that_fits(length: timedelta, text: str) -> None:
    assert describe_length(length) == text

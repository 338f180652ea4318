"""Microseconds since the epoch convert exactly in both directions."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.times import epoch_us, from_epoch_us, now_us, time_text


@given(st.datetimes(timezones=st.timezones()))
def test_a_time_survives_a_round_trip(at: datetime) -> None:
    try:
        utc = at.astimezone(UTC)
    except OverflowError:
        return
    assert from_epoch_us(epoch_us(at)) == utc


def test_a_time_zone_does_not_change_the_instant() -> None:
    berlin = timezone(timedelta(hours=2))
    assert epoch_us(datetime(1970, 1, 1, 2, tzinfo=berlin)) == 0
    assert epoch_us(datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)) == -1


def test_the_current_time_is_in_microseconds() -> None:
    assert abs(from_epoch_us(now_us()) - datetime.now(UTC)) < timedelta(minutes=1)


@pytest.mark.parametrize(
    ("at", "text"),
    [(0, "1970-01-01T00:00:00Z"), (1_500_000, "1970-01-01T00:00:01.500000Z"), (2**63 - 1, str(2**63 - 1))],
)
def test_a_time_is_text_with_z_or_the_number_that_no_calendar_has(at: int, text: str) -> None:
    assert time_text(at) == text

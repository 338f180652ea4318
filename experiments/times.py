"""Times as microseconds since the Unix epoch, UTC: the unit of every time in the database and in events."""

import time
from datetime import UTC, datetime, timedelta
from typing import Final

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def now_us() -> int:
    """Return the current time in microseconds since the Unix epoch, UTC."""
    return time.time_ns() // 1000


def epoch_us(at: datetime) -> int:
    """Return a time that has a time zone in microseconds since the Unix epoch, without rounding."""
    return (at - EPOCH) // _MICROSECOND


def from_epoch_us(at_us: int) -> datetime:
    """Return microseconds since the Unix epoch as a time in UTC.

    Raises:
        OverflowError: The year is not between 1 and 9999.
    """
    return EPOCH + timedelta(microseconds=at_us)


def time_text(at_us: int) -> str:
    """Return microseconds UTC as text such as 2026-05-04T12:30:00Z; the number itself outside the years 1 to 9999."""
    try:
        return from_epoch_us(at_us).isoformat().replace("+00:00", "Z")
    except OverflowError:
        return str(at_us)

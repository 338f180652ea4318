"""Times: microseconds since the Unix epoch, aware datetimes, and ISO 8601 texts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND: Final = timedelta(microseconds=1)
MICROSECONDS_PER_SECOND: Final = 1_000_000


def to_microseconds(at: datetime) -> int:
    """Return microseconds since the Unix epoch; a time without a zone is UTC, as in Feast."""
    return ((at if at.tzinfo else at.replace(tzinfo=UTC)) - EPOCH) // MICROSECOND


def from_microseconds(at_us: int) -> datetime:
    """Return the UTC time that is so many microseconds after the Unix epoch.

    Raises:
        OverflowError: The time is outside the years 1 to 9999.
    """
    return EPOCH + timedelta(microseconds=at_us)


def parse_time(text: str, zone: tzinfo | None = None) -> datetime:
    """Parse an ISO 8601 date or time into an aware datetime.

    Args:
        text: For example 2026-03-01T12:00:00Z.
        zone: Zone of a text that states none; None refuses such a text.

    Raises:
        ValueError: The text is not ISO 8601, or has no zone. The message says what to write.
    """
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a time: write it as 2026-03-01T12:00:00Z") from None
    if at.utcoffset() is not None:
        return at
    if zone is None:
        raise ValueError(f"{text!r} has no time zone: add one, such as Z for UTC")
    return at.replace(tzinfo=zone)

"""Time as integers: microseconds since the Unix epoch, UTC, and lengths of time in microseconds."""

from datetime import UTC, datetime, timedelta

EPOCH = datetime.fromtimestamp(0, UTC)
DAY = 24 * 3600 * 1_000_000  # microseconds


def to_datetime(microseconds: int) -> datetime:
    """Convert microseconds since the epoch to an aware time, exact to the microsecond."""
    return EPOCH + timedelta(microseconds=microseconds)


def since_epoch(time: datetime) -> int:
    """Convert an aware time to microseconds since the epoch."""
    return microseconds(time - EPOCH)


def microseconds(length: timedelta) -> int:
    """Return a length of time in whole microseconds."""
    return length // timedelta(microseconds=1)


def describe_length(length: timedelta) -> str:
    """Return a length of time for people, in days, hours or minutes: `14 days`, `6 hours`."""
    days = length / timedelta(days=1)
    if days >= 1:
        return f"{days:.4g} day" + "s" * (days != 1)
    return (
        f"{length / timedelta(hours=1):.3g} hours" if days >= 1 / 24 else f"{length / timedelta(minutes=1):.3g} minutes"
    )

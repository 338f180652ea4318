"""Times and durations on the command line: one parser for input, one format for output."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import typer

from feature_repo.times import from_microseconds

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhdw])", re.ASCII)
_AGO = re.compile(r"\d+[smhdw]", re.ASCII)


def parse_time(
    text: str, option: str | None = None, *, naive_is_utc: bool = False, now: datetime | None = None
) -> datetime:
    """Read the time that an option gives.

    Args:
        text: ISO 8601 date or date-time, such as 2026-03-01T12:00:00Z.
        option: Name of the option, for the error message.
        naive_is_utc: Whether a time without a time zone is UTC. Otherwise it is refused.
        now: Time from which `text` may count back, such as 2h for two hours ago. None forbids this form.

    Returns:
        The time, with its time zone.

    Raises:
        typer.BadParameter: The text is not a time, or it has no time zone and needs one.
    """
    example = "2026-03-01T12:00:00Z" + (", or how long ago: 30s, 15m, 2h, 7d, 1w" if now is not None else "")
    try:
        if now is not None and _AGO.fullmatch(text):
            return now - _duration(text)
        time = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"{text!r} is not a time; write {example}", param_hint=option) from None
    if time.utcoffset() is not None:
        return time
    if naive_is_utc:
        return time.replace(tzinfo=UTC)
    raise typer.BadParameter(f"{text!r} has no time zone; add one, such as Z for UTC", param_hint=option)


def parse_duration(text: str, option: str | None = None) -> timedelta:
    """Read a duration: a number and s, m, h, d or w, such as 90m or 1.5h.

    Raises:
        typer.BadParameter: The text is not a duration.
    """
    try:
        return _duration(text)
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            f"{text!r} is not a duration; write a number and s, m, h, d or w, such as 90m", param_hint=option
        ) from None


def _duration(text: str) -> timedelta:
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(text)
    return timedelta(**{_UNITS[match[2]]: float(match[1])})


def time_text(microseconds: int | None) -> str:
    """Microseconds since 1970 (UTC) as ISO 8601 to the second; `-` for None."""
    if microseconds is None:
        return "-"
    return from_microseconds(microseconds).isoformat(timespec="seconds")

"""Times on the command line: with their zone as they are given, in UTC as they are printed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import typer

_EPOCH = datetime.fromtimestamp(0, UTC)


def instant(text: str | None, option: str | None = None) -> datetime | None:
    """The time that an option gives, with its zone; None if it is not given. Raises BadParameter, of that option."""
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no time: write it as 2026-03-01T12:00:00Z", param_hint=option) from None
    if found.utcoffset() is None:
        raise typer.BadParameter(f"{text!r} has no time zone: add one, such as Z for UTC", param_hint=option)
    return found


def moment(text: str | None, option: str = "--at") -> int:
    """Microseconds UTC of a time that must be given; see `instant`."""
    at = instant(text or "", option)
    assert at is not None
    return (at - _EPOCH) // timedelta(microseconds=1)


def time_text(at: int | None) -> str:
    """Microseconds UTC to the second, - for none."""
    return "-" if at is None else (_EPOCH + timedelta(microseconds=at)).isoformat(timespec="seconds")

"""Times on the command line: with their zone as they are given, in UTC as they are printed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import typer

_EPOCH = datetime.fromtimestamp(0, UTC)


def moment(text: str | None, option: str = "--at") -> int:
    """Microseconds UTC of a time that names its zone. Raises BadParameter, of the option that it came from."""
    try:
        at: datetime | None = datetime.fromisoformat(text or "")
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise typer.BadParameter(f"{text!r} must look like 2026-05-04T12:30Z, with its time zone.", param_hint=option)
    return (at - _EPOCH) // timedelta(microseconds=1)


def time_text(at: int | None) -> str:
    """Microseconds UTC to the second, - for none."""
    return "-" if at is None else (_EPOCH + timedelta(microseconds=at)).isoformat(timespec="seconds")

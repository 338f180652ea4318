"""Text that every database can hold, and times as people read them. Pure."""

from datetime import UTC, datetime, timedelta
from typing import Final

_EPOCH: Final = datetime.fromtimestamp(0, UTC)


def time_text(at_us: int) -> str:
    """Microseconds UTC as 2026-05-04T12:30:00Z; the number itself where no calendar reaches."""
    try:
        return (_EPOCH + timedelta(microseconds=at_us)).isoformat().replace("+00:00", "Z")
    except OverflowError:
        return str(at_us)


def text_fault(text: str) -> str | None:
    """Why a database would refuse a text, in a few words; None when none would."""
    if "\0" in text:
        return "holds a NUL, which PostgreSQL cannot store"
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            return "holds a lone surrogate"
    return None

"""The trace that a record belongs to: W3C Trace Context's `traceparent` as a header of the record.

We make no spans of our own: as the specification asks of whoever only forwards (https://www.w3.org/TR/trace-context/,
section 4.2), the header goes on unchanged with what was made of the record, and its trace id stands in the logs.
"""

from __future__ import annotations

import re
from typing import Any

TRACEPARENT = "traceparent"
_FORM = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.{0,200})?")


def traceparent(record: Any) -> bytes | None:
    """The record's header; None when it has none, or one that is not of the specified form."""
    for name, value in record.headers or ():
        if name == TRACEPARENT:
            return value if value and _FORM.fullmatch(value) else None
    return None


def trace_id(record: Any) -> str | None:
    """The 32 hexadecimal digits that name the record's trace, or None."""
    header = traceparent(record)
    return None if header is None else header[3:35].decode()

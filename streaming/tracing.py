"""The trace of a record: the `traceparent` of W3C Trace Context as a record header.

We create no spans. As the specification asks of systems that only forward (https://www.w3.org/TR/trace-context/,
section 4.2), the header is passed on unchanged with each record that results from this one, and logs show its trace id.
"""

from __future__ import annotations

import re
from typing import Any

TRACEPARENT = "traceparent"
"""Name of the header."""
_FORM = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.{0,200})?")


def traceparent(record: Any) -> bytes | None:
    """Return the header of a record; None if it is missing or malformed."""
    for name, value in record.headers or ():
        if name == TRACEPARENT:
            return value if value and _FORM.fullmatch(value) else None
    return None


def trace_id(record: Any) -> str | None:
    """Return the trace id of a record, 32 hexadecimal digits; None without a valid header."""
    header = traceparent(record)
    return None if header is None else header[3:35].decode()

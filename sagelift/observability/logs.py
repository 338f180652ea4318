"""Logs of the consumers: text on a terminal, one JSON object per line elsewhere."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import IO, Any, Literal

import msgspec

LogFormat = Literal["auto", "text", "json"]

_TEXT = "%(asctime)s %(levelname)s %(name)s %(message)s"
# Attributes of every record; all others were passed as `extra`.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON: time, level, logger, message, the fields of `extra`, and the traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {k: v for k, v in vars(record).items() if k not in _STANDARD and k not in line and v is not None}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return _encoded(line)


def configure(chosen: LogFormat, stream: IO[str] | None = None) -> None:
    """Set up the logging of this process.

    Args:
        chosen: Format; `auto` is text on a terminal and JSON elsewhere.
        stream: Where to write; by default stderr.
    """
    stream = stream or sys.stderr
    if chosen == "auto":
        chosen = "text" if stream.isatty() else "json"
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter() if chosen == "json" else logging.Formatter(_TEXT))
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    logging.getLogger("kafka").setLevel(logging.ERROR)


def _encoded(line: dict[str, Any]) -> str:
    try:
        return msgspec.json.encode(line, enc_hook=str).decode()
    except (UnicodeEncodeError, TypeError, OverflowError):  # lone surrogates, or keys that are not strings
        clean = {k: str(v).encode("utf-8", "backslashreplace").decode() for k, v in line.items()}
        return msgspec.json.encode(clean).decode()

"""Logs of the consumers: lines for people on a terminal, JSON objects elsewhere."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import IO, Any, Literal

import msgspec

LogFormat = Literal["auto", "text", "json"]

_TEXT = "%(asctime)s %(levelname)s %(name)s %(message)s"
# What every record has; whatever else it bears was given as `extra`.
_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, what was given as `extra`, and an exception's traceback."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {k: v for k, v in vars(record).items() if k not in _USUAL and k not in line and v is not None}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return _encoded(line)


def configure(chosen: LogFormat, stream: IO[str] | None = None) -> None:
    """Set up this process's logging, to stderr; `auto` is text on a terminal, JSON elsewhere."""
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
    except (UnicodeEncodeError, TypeError, OverflowError):  # lone surrogates, keys that are no strings
        clean = {k: str(v).encode("utf-8", "backslashreplace").decode() for k, v in line.items()}
        return msgspec.json.encode(clean).decode()

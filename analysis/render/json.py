"""The report as JSON. Its schema: `analysis.render.schema`, published as docs/reference/schemas/report.schema.json."""

import msgspec

from analysis.results import Report


def to_json(report: Report, *, indent: int | None = 2) -> str:
    """Return the report as JSON text. Every number is finite; an undefined value is null."""
    encoded = msgspec.json.encode(report)
    return (msgspec.json.format(encoded, indent=indent) if indent else encoded).decode()


def from_json(text: str | bytes) -> Report:
    """Return the report of a JSON text.

    Raises:
        msgspec.ValidationError: The text is not a report.
    """
    return msgspec.json.decode(text, type=Report)

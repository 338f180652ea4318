"""The report as JSON. Its schema: `analysis.render.schema`, published as docs/analysis/report.schema.json."""

import msgspec

from analysis.results import Report


def to_json(report: Report, *, indent: int | None = 2) -> str:
    """The report as JSON text. Every number is finite: what is undefined is null."""
    encoded = msgspec.json.encode(report)
    return (msgspec.json.format(encoded, indent=indent) if indent else encoded).decode()


def from_json(text: str | bytes) -> Report:
    """The report back from its JSON, type-checked. msgspec.ValidationError if it is none."""
    return msgspec.json.decode(text, type=Report)

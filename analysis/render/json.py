"""The report as JSON. Its schema: `analysis.render.schema`, published as docs/reference/schemas/report.schema.json."""

import msgspec

from analysis.render import wording
from analysis.results import Report


class PrintedReport(Report, frozen=True, kw_only=True):
    """A report as it is printed as JSON.

    Attributes:
        notes: What a reader must also know, in sentences, as on the page.
    """

    notes: list[str]


def to_json(report: Report, *, indent: int | None = 2) -> str:
    """Return the report and its notes as JSON text. Every number is finite; an undefined value is null."""
    fields = {name: getattr(report, name) for name in report.__struct_fields__}
    encoded = msgspec.json.encode(PrintedReport(**fields, notes=wording.notes(report)))
    return (msgspec.json.format(encoded, indent=indent) if indent else encoded).decode()


def from_json(text: str | bytes) -> Report:
    """Return the report of a JSON text.

    Raises:
        msgspec.ValidationError: The text is not a report.
    """
    return msgspec.json.decode(text, type=Report)

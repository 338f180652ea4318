"""The JSON Schemas (2020-12) of what is printed as JSON. `python -m analysis.render.schema FOLDER` writes them."""

import sys
from pathlib import Path
from typing import Any

import msgspec

from analysis.plan import Plan
from analysis.results import SCHEMA_VERSION, Report
from analysis.simulation import Simulation

PUBLISHED: dict[str, tuple[type, str]] = {
    "report.schema.json": (Report, f"A report, schema_version {SCHEMA_VERSION}"),
    "simulation.schema.json": (Simulation, "A simulation"),
    "plan.schema.json": (Plan, "A plan"),
}


def json_schema(kind: type = Report, title: str = "") -> dict[str, Any]:
    """The schema of a result."""
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema"} | ({"title": title} if title else {})
    return head | msgspec.json.schema(kind)


def text(name: str) -> str:
    """A published schema as it stands in its file."""
    return msgspec.json.format(msgspec.json.encode(json_schema(*PUBLISHED[name]))).decode() + "\n"


if __name__ == "__main__":
    for published in PUBLISHED:
        (Path(sys.argv[1]) / published).write_text(text(published), encoding="utf-8")

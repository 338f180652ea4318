"""JSON Schemas (2020-12) of everything printed as JSON. `python -m analysis.render.schema FOLDER` writes them."""

import re
import sys
from inspect import cleandoc
from pathlib import Path
from typing import Any

import msgspec

from analysis.plan import Plan
from analysis.render.json import PrintedReport
from analysis.results import SCHEMA_VERSION
from analysis.simulation import Simulation

PUBLISHED: dict[str, tuple[type, str]] = {
    "report.schema.json": (PrintedReport, f"A report, schema_version {SCHEMA_VERSION}"),
    "simulation.schema.json": (Simulation, "A simulation"),
    "plan.schema.json": (Plan, "A plan"),
}


def json_schema(kind: type = PrintedReport, title: str = "") -> dict[str, Any]:
    """Return the schema of a result type, with the descriptions of its docstrings.

    Args:
        kind: The result type.
        title: Title of the schema; none if empty.
    """
    schema = msgspec.json.schema(kind)
    for definition in schema["$defs"].values():
        _describe(definition)
    for base in kind.__mro__[1:]:  # a docstring describes only the attributes that its class adds
        if base is not msgspec.Struct and issubclass(base, msgspec.Struct):
            schema["$defs"][kind.__name__]["properties"] |= json_schema(base)["$defs"][base.__name__]["properties"]
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema"} | ({"title": title} if title else {})
    return head | schema


def _describe(definition: dict[str, Any]) -> None:
    """Move the attributes of a type's docstring to the properties that they describe."""
    text, _, attributes = cleandoc(definition.get("description", "")).partition("\n\nAttributes:\n")
    definition["description"] = " ".join(text.split())
    for name, description in re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", attributes, flags=re.M):
        # A property that refers to another type keeps the reference, and gets a description beside it.
        definition["properties"][name] = {"description": " ".join(description.split())} | definition["properties"][name]


def text(name: str) -> str:
    """Return a published schema as the text of its file."""
    return msgspec.json.format(msgspec.json.encode(json_schema(*PUBLISHED[name]))).decode() + "\n"


if __name__ == "__main__":
    for published in PUBLISHED:
        (Path(sys.argv[1]) / published).write_text(text(published), encoding="utf-8")

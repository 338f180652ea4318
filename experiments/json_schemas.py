"""JSON Schemas from the docstrings of structs: the summary describes the type, and `Attributes:` the properties."""

import inspect
import re
from collections.abc import Mapping
from typing import Any, Final

_SECTION: Final = re.compile(r"^(Attributes|Raises|Args|Returns):$", re.MULTILINE)
_FIELD: Final = re.compile(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", re.MULTILINE)


def describe_properties(schemas: Mapping[str, dict[str, Any]]) -> None:
    """Move each property's text from the description of its schema to the property, in place.

    Args:
        schemas: JSON Schemas by name, as msgspec makes them: the description is the whole docstring.
    """
    for schema in schemas.values():
        if "description" not in schema:
            continue
        text, *sections = _SECTION.split(inspect.cleandoc(schema["description"]))
        schema["description"] = text.strip()
        for title, body in zip(sections[::2], sections[1::2], strict=True):
            for name, description in _FIELD.findall(body) if title == "Attributes" else ():
                schema["properties"][name]["description"] = " ".join(description.split())

"""What msgspec refused, said with the value that stood there. Pure."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

_AT: Final = re.compile(r" - at `\$([^`]*)`$")
_STEP: Final = re.compile(r"\.([^.\[\]]+)|\[([0-9]+)\]")
_LONGEST: Final = 80


def refused(document: Any, message: str) -> tuple[str, Any, str]:
    """Where in a document something was refused, what stands there, and the rule without its place.

    message: of a msgspec.ValidationError, such as "Expected `int`, got `float` - at `$.arms[0].weight`". Where it names
    no place, the place is "", and the value is None where the document has none there; a long value is cut.
    """
    rule = _AT.sub("", message).removesuffix(".")
    place = _AT.search(message)
    path = place[1] if place else ""
    value = document
    for name, index in _STEP.findall(path):
        if name and isinstance(value, Mapping) and name in value:
            value = value[name]
        elif index and isinstance(value, Sequence) and not isinstance(value, str) and int(index) < len(value):
            value = value[int(index)]
        else:
            return path.removeprefix("."), None, rule
    if not path or "unknown field" in rule or "missing required field" in rule:
        return path.removeprefix("."), None, rule  # the whole object stands there
    return path.removeprefix("."), value if len(repr(value)) <= _LONGEST else repr(value)[:_LONGEST] + "...", rule

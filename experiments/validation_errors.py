"""Locate the value of a document that msgspec refused. Messages for users are not here: callers write them."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

_AT: Final = re.compile(r" - at `\$([^`]*)`$")
_STEP: Final = re.compile(r"\.([^.\[\]]+)|\[([0-9]+)\]")
_LONGEST: Final = 80


class InvalidValue(NamedTuple):
    """An invalid value of a document.

    Attributes:
        place: Path of the value, such as `arms[0].weight`; "" when the message names no place.
        value: The value; None when the document has no value there. A long value is shortened.
        rule: The rule that the value breaks.
    """

    place: str
    value: Any
    rule: str


def locate_invalid_value(document: Any, message: str) -> InvalidValue:
    """Find the value that msgspec refused.

    Args:
        document: The document that was converted, as builtin types.
        message: Message of the `msgspec.ValidationError`, such as "Expected `int`, got `float` - at
            `$.arms[0].weight`".
    """
    rule = _AT.sub("", message).removesuffix(".")
    match = _AT.search(message)
    path = match[1] if match else ""
    place = path.removeprefix(".")
    value = document
    for name, index in _STEP.findall(path):
        if name and isinstance(value, Mapping) and name in value:
            value = value[name]
        elif index and isinstance(value, Sequence) and not isinstance(value, str) and int(index) < len(value):
            value = value[int(index)]
        else:
            return InvalidValue(place, None, rule)
    if not path or "unknown field" in rule or "missing required field" in rule:
        return InvalidValue(place, None, rule)  # the value would be the whole object
    return InvalidValue(place, value if len(repr(value)) <= _LONGEST else repr(value)[:_LONGEST] + "...", rule)

"""The attributes of a unit that an exposure records: those that the config's `record` names, and no others.

A report can then split or adjust by what was true when the unit was first exposed, before the treatment could change
it. The functions are pure and never raise: an attribute that cannot be stored is left out.
"""

import math
from collections.abc import Mapping
from typing import Any, Final

from experiments.text_rules import text_problem

Attribute = str | int | float | bool

MAX_RECORDED: Final = 20
"""The maximum number of attributes that an experiment records."""

MAX_TEXT: Final = 256
"""The maximum number of characters of a recorded text; a longer text makes no useful segment."""

_INT64: Final = 2**63


def recorded(names: tuple[str, ...], given: Mapping[str, Any] | None) -> dict[str, Attribute] | None:
    """Return the attributes to record.

    Args:
        names: The attributes that the config records.
        given: All attributes of the unit.

    Returns:
        The named attributes that can be stored; None when no attribute is left. Never raises.
    """
    if given is None:
        return None
    try:
        named = {name: given[name] for name in names if name in given}
    except Exception:  # `given` may be a mapping of the caller's own class
        return None
    return {name: value for name, value in named.items() if value_problem(value) is None} or None


def value_problem(value: object) -> str | None:
    """Return why a value cannot be recorded, in a few words; None when it can."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return None if -_INT64 <= value < _INT64 else "is an integer of more than 64 bits"
    if isinstance(value, float):
        return None if math.isfinite(value) else "is not a finite number"
    if not isinstance(value, str):
        return f"is a {type(value).__name__}, not text, a number or a boolean"
    if len(value) > MAX_TEXT:
        return f"is longer than {MAX_TEXT} characters"
    return text_problem(value)

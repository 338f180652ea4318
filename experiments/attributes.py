"""What of a unit's attributes is kept with its exposure: what the config's `record` names, and no more.

A report may then split or adjust by what was true of a unit when it was first exposed, which no treatment has changed.
Pure, and nothing here raises: an attribute that cannot be kept is left out.
"""

import math
from collections.abc import Mapping
from typing import Any, Final

from experiments.text_rules import text_fault

Attribute = str | int | float | bool

MAX_RECORDED: Final = 20
"""The most attributes that an experiment records."""

MAX_TEXT: Final = 256
"""Characters of a text that is kept; a longer one is no segment."""

_INT64: Final = 2**63


def recorded(names: tuple[str, ...], given: Mapping[str, Any] | None) -> dict[str, Attribute] | None:
    """The attributes of these names that can be kept; None when there are none. Never raises."""
    if given is None:
        return None
    try:
        found = {name: given[name] for name in names if name in given}
    except Exception:  # a mapping of the caller's own
        return None
    return {name: value for name, value in found.items() if fault(value) is None} or None


def fault(value: object) -> str | None:
    """Why a value cannot be kept, in a few words; None when it can."""
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
    return text_fault(value)

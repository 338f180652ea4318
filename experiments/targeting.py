"""Targeting: a condition in CEL (Common Expression Language) over a unit's attributes.

    country in ["DE", "AT"] && age >= 18
    has(attributes.plan) && attributes.plan == "pro"

Each attribute is a variable with its name; `attributes` is a mapping of all of them, to check whether one exists. A
condition is compiled when the experiment is prepared. Its result is true or false; anything else becomes a reason (T1
to T4 of docs/reference/assignment-spec.md) and never an exception.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from experiments.assignment import Reason
from experiments.errors import ConfigError

if TYPE_CHECKING:
    from cel import Program

MAX_LENGTH: Final = 4_096
"""Maximum number of characters of a condition."""

MAX_MACROS: Final = 3
"""Maximum number of macros (all, exists, map ...): the cost of nested macros multiplies, and nothing else bounds it."""

MAX_DEPTH: Final = 16
"""Maximum depth of an attribute's lists and mappings: a value that contains itself would end the process."""

ALL: Final = "attributes"
"""Variable that holds all attributes."""

_SCALARS: Final = frozenset((str, float, bool, type(None), datetime))
_INT64: Final = 2**63
_STRING: Final = re.compile(r"""[rR]?("{3}.*?"{3}|'{3}.*?'{3}|"(\\.|[^"\\])*"|'(\\.|[^'\\])*')""", re.DOTALL)
_MACRO: Final = re.compile(r"\.\s*(?:all|exists|exists_one|map|filter)\s*\(\s*([A-Za-z_]\w*)\s*,")
_FUNCTIONS: Final = frozenset(
    "size contains startsWith endsWith matches int uint double string bytes timestamp duration type dyn getFullYear "
    "getMonth getDate getDayOfMonth getDayOfWeek getDayOfYear getHours getMinutes getSeconds getMilliseconds".split()
)
_TYPES: Final = frozenset("bool bytes double duration int list map null_type string timestamp type uint".split())


class Condition:
    """A compiled condition.

    Attributes:
        source: The text of the condition.

    Raises:
        ConfigError: The text is not CEL, or its result is never true or false.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self._program, names, self._bound = _compile(source)
        self._names = tuple(sorted(names - {ALL}))
        self._reads_all = ALL in names

    def judge(self, attributes: Mapping[str, Any] | None) -> Reason | None:
        """Return None when the unit is targeted, else why it is not. Never raises."""
        given: dict[str, Any] = {}
        missing = False
        try:
            for name in self._names:
                if attributes is not None and name in attributes:
                    given[name] = _checked(attributes[name])
                elif name not in self._bound:
                    missing = True
            if self._reads_all:
                given[ALL] = {} if attributes is None else _checked(dict(attributes))
            answer = self._program.execute(given)
        except KeyError:  # a field that a nested attribute lacks
            return Reason.ATTRIBUTE_MISSING
        except Exception:  # the library and the caller's own mapping may raise any type
            return Reason.ATTRIBUTE_MISSING if missing else Reason.TARGETING_FAILED
        if answer is True:
            return None
        return Reason.NOT_TARGETED if answer is False else Reason.TARGETING_FAILED


def problem(source: str) -> str | None:
    """Return what is wrong with a condition, in a few words; None when it is valid."""
    try:
        _compile(source)
    except ConfigError as error:
        return str(error)
    return None


def _compile(source: str) -> tuple[Program, frozenset[str], frozenset[str]]:
    """Compile a condition; return the program, its variables, and the variables that macros bind."""
    import cel  # the import takes a quarter of a second; only experiments with a condition need it

    if len(source) > MAX_LENGTH:
        raise ConfigError(f"targeting has {len(source)} characters; it may have at most {MAX_LENGTH}")
    macros = _MACRO.findall(_STRING.sub("''", source))
    if len(macros) > MAX_MACROS:
        raise ConfigError(f"targeting has {len(macros)} of all, exists, map, filter; it may have at most {MAX_MACROS}")
    try:
        program = cel.compile(source)
    except Exception as error:  # documented as ValueError; the parser may raise other types
        raise ConfigError(f"targeting is not CEL: {' '.join(str(error).split())[:300]}") from error
    unknown = [name for name in program.functions() if name.isidentifier() and name not in _FUNCTIONS]
    if unknown:
        raise ConfigError(f"targeting calls {', '.join(sorted(unknown))}, which CEL does not have")
    names, bound = frozenset(program.variables()) - _TYPES, frozenset(macros)
    if names <= bound:
        _check_constant(program)
    return program, names, bound


def _check_constant(program: Program) -> None:
    try:
        answer = program.execute({})
    except Exception as error:
        raise ConfigError(f"targeting always fails: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(answer, bool):
        raise ConfigError(f"targeting returns {answer!r}; a condition must return true or false")


def _checked(value: Any, depth: int = 0) -> Any:
    """Return the value when CEL has its type and it is not nested too deeply; raise ValueError otherwise."""
    if type(value) in _SCALARS:
        return value
    if isinstance(value, int):
        if not -_INT64 <= value < _INT64:
            raise ValueError("an integer of CEL has 64 bits")  # the library does not always refuse larger ones
        return value
    if depth >= MAX_DEPTH:
        raise ValueError("nested too deeply")
    if isinstance(value, Mapping):
        return {key: _checked(part, depth + 1) for key, part in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_checked(part, depth + 1) for part in value]
    if isinstance(value, float | str):  # such as NumPy's types or an enum
        return value
    raise ValueError(f"a {type(value).__name__} cannot be an attribute")

"""Edits of a live experiment's config: which are safe, and which need a new phase.

A safe edit (`publish`, `ramp`) moves no unit between arms and removes no unit from the experiment; it makes a new
version. An unsafe edit (`new_phase`) begins a new phase with a new salt.
"""

from typing import Any, Final

import msgspec

from experiments.config import ExperimentConfig
from experiments.errors import ConfigError

# Every field that this module does not name is unsafe: a new field becomes safe only after somebody thought about it.
ALWAYS_SAFE: Final = ("schema", "description", "surfaces", "metrics", "record", "analysis")
"""Fields that do not change any assignment."""


class Change(msgspec.Struct, frozen=True):
    """A field in which two configs differ.

    Attributes:
        field: Name of the field.
        old: The old value, as builtin types.
        new: The new value, as builtin types.
        unsafe: Why the change needs a new phase; None when it is safe.
    """

    field: str
    old: Any
    new: Any
    unsafe: str | None


def changes(old: ExperimentConfig, new: ExperimentConfig, at_us: int) -> tuple[Change, ...]:
    """Return the differences between two configs, and whether a live experiment may take each of them.

    Args:
        old: Config in force.
        new: The edited config.
        at_us: The current time in microseconds since the Unix epoch; ramps depend on it.
    """
    differences = []
    for field in ExperimentConfig.__struct_fields__:
        before, after = getattr(old, field), getattr(new, field)
        if before != after:
            unsafe = _unsafe(field, old, new, at_us)
            differences.append(Change(field, msgspec.to_builtins(before), msgspec.to_builtins(after), unsafe))
    return tuple(differences)


def check_edit(old: ExperimentConfig, new: ExperimentConfig, at_us: int) -> None:
    """Check that a live experiment may go from `old` to `new`: no unit changes its arm or leaves the experiment.

    Args:
        old: Config in force.
        new: The edited config.
        at_us: The current time in microseconds since the Unix epoch.

    Raises:
        ConfigError: The edit is unsafe.
    """
    if problems := sorted({change.unsafe for change in changes(old, new, at_us) if change.unsafe}):
        raise ConfigError(
            f"experiment {old.key!r} is live: {'; '.join(problems)}. That would move units between arms or out of the "
            "experiment: begin a new phase with a new salt (`sagelift experiment new-phase`)."
        )


def check_ramp(key: str, old: int, new: int) -> None:
    """Check that a ramp raises the coverage.

    Args:
        key: Key of the experiment, for the message.
        old: Coverage in force, in 1/10,000.
        new: The new coverage, in 1/10,000.

    Raises:
        ConfigError: The coverage does not grow, or is above 10,000.
    """
    if not old < new <= 10_000:
        raise ConfigError(
            f"experiment {key!r}: a ramp raises the coverage from {old}, to at most 10000; got {new}. "
            "A lower coverage would remove units: begin a new phase with a new salt."
        )


def _unsafe(field: str, old: ExperimentConfig, new: ExperimentConfig, at_us: int) -> str | None:
    """Return why a field's change moves or removes a unit; None when it adds units or touches none."""
    if field in ALWAYS_SAFE:
        return None
    if field in ("coverage", "ramp"):
        # Future steps have enrolled no unit yet; only the coverage in force matters.
        before, after = old.coverage_at(at_us), new.coverage_at(at_us)
        return f"coverage lowered from {before} to {after}" if after < before else None
    if field == "targeting":
        dropped = set(conjuncts(new.targeting)) <= set(conjuncts(old.targeting))
        return None if dropped else "targeting has a condition that it did not have"
    if field == "holdouts":
        sizes = {holdout.key: holdout.size for holdout in old.holdouts}
        grown = [holdout.key for holdout in new.holdouts if holdout.size > sizes.get(holdout.key, 0)]
        return f"holdout {', '.join(grown)} is new or larger" if grown else None
    if field == "prerequisites":
        arms = {prerequisite.experiment: set(prerequisite.arms) for prerequisite in old.prerequisites}
        narrower = [p.experiment for p in new.prerequisites if not arms.get(p.experiment, {None}) <= set(p.arms)]
        return f"prerequisite {', '.join(narrower)} is new or names fewer arms" if narrower else None
    return f"{field} changed"


def conjuncts(condition: str) -> tuple[str, ...]:
    """Split a condition at its outermost `&&`. Dropping one of the parts never removes a unit.

    Args:
        condition: CEL condition, such as `a && b && c`. A condition of another form is one part.
    """
    parts, start, depth, quote, i = [], 0, 0, "", 0
    while i < len(condition):
        c = condition[i]
        if quote:
            if c == "\\":
                i += 1
            elif c == quote:
                quote = ""
        elif c in "\"'":
            quote = c
        elif c in "([{":
            depth += 1
        elif c in ")]}":
            depth -= 1
        elif depth == 0 and (c == "?" or condition.startswith("||", i)):
            return (condition.strip(),)  # these operators bind more loosely than &&
        elif depth == 0 and condition.startswith("&&", i):
            parts.append(condition[start:i].strip())
            start = i + 2
            i += 1
        i += 1
    return tuple(part for part in (*parts, condition[start:].strip()) if part)

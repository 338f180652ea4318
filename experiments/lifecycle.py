"""The rules of an experiment's life: which state may follow which, and what a live one may change. Pure.

    draft <-> in_review -> running <-> paused
    running | paused -> stopped -> decided (ship | roll_back | inconclusive) -> archived

A paused experiment keeps serving its arms and enrols no one; a stopped one serves control. Edits of a live experiment
are of two kinds, and of two commands. A *safe* one (`publish`, `ramp`) moves no unit between arms and puts none out: a
new version. An *unsafe* one (`new_phase`) begins a new phase: a new salt, hence new draws for everyone, and a report
of its own.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Final, Literal

import msgspec

from experiments.config import ExperimentConfig, ExperimentState, LayerRange
from experiments.errors import ConfigError, ConflictError, TransitionError

Decision = Literal["ship", "roll_back", "inconclusive"]
Action = Literal["start", "pause", "ramp", "stop"]
"""What can be scheduled."""

FOLLOWERS: Final[dict[ExperimentState, tuple[ExperimentState, ...]]] = {
    "draft": ("in_review", "running", "archived"),
    "in_review": ("draft", "running", "archived"),
    "running": ("paused", "stopped"),
    "paused": ("running", "stopped"),
    "stopped": ("decided",),  # or running, in a new phase
    "decided": ("archived",),
    "archived": (),
}
LIVE: Final[tuple[ExperimentState, ...]] = ("running", "paused")
"""States that serve arms: they hold their layer range, and their config only takes safe edits."""

SERVED: Final[tuple[ExperimentState, ...]] = (*LIVE, "stopped")
"""States that a service must know of: a stopped experiment serves control."""

# Fields that change no decision of anyone. What is not named in this module is unsafe: a field that is added later is
# safe only once someone has thought about it.
_FREE: Final = ("schema", "description", "surfaces", "metrics", "record")


class Change(msgspec.Struct, frozen=True):
    """A field that two configs differ in. `unsafe` says why the change needs a new phase; None when it is safe."""

    field: str
    old: Any
    new: Any
    unsafe: str | None


def check_transition(key: str, current: ExperimentState, following: ExperimentState, outcome: Decision | None) -> None:
    """Raises TransitionError unless `following` may come after `current`, with an outcome exactly when
    decided.
    """
    allowed = FOLLOWERS[current]
    if following not in allowed:
        remedy = f"it may become {' or '.join(allowed)}" if allowed else "nothing follows"
        if current == "stopped":
            remedy += ", or run again in a new phase with a new salt"
        raise TransitionError(f"experiment {key!r} is {current} and cannot become {following}: {remedy}.")
    if (outcome is not None) != (following == "decided"):
        raise TransitionError(
            f"experiment {key!r}: an outcome (ship, roll_back or inconclusive) is given when it is decided, "
            f"and only then; got {outcome!r} for {following}."
        )


def changes(old: ExperimentConfig, new: ExperimentConfig, now_us: int) -> tuple[Change, ...]:
    """What differs, field by field, and whether an experiment that is live at a time (microseconds UTC) takes it."""
    found = []
    for field in ExperimentConfig.__struct_fields__:
        before, after = getattr(old, field), getattr(new, field)
        if before != after:
            unsafe = _unsafe(field, old, new, now_us)
            found.append(Change(field, msgspec.to_builtins(before), msgspec.to_builtins(after), unsafe))
    return tuple(found)


def _unsafe(field: str, old: ExperimentConfig, new: ExperimentConfig, now_us: int) -> str | None:
    """Why a field's change would move a unit or put one out; None when it lets more units in, or touches none."""
    if field in _FREE:
        return None
    if field in ("coverage", "ramp"):
        # Steps to come have enrolled nobody yet; what counts is who is in now.
        before, after = old.coverage_at(now_us), new.coverage_at(now_us)
        return f"coverage lowered from {before} to {after}" if after < before else None
    if field == "targeting":
        dropped = set(conjuncts(new.targeting)) <= set(conjuncts(old.targeting))
        return None if dropped else "targeting has a condition that it had not"
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
    """The parts of `a && b && c`; a condition of another form is one part. To drop a part never puts a unit out."""
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
            return (condition.strip(),)  # binds more loosely than &&
        elif depth == 0 and condition.startswith("&&", i):
            parts.append(condition[start:i].strip())
            start = i + 2
            i += 1
        i += 1
    return tuple(part for part in (*parts, condition[start:].strip()) if part)


def check_edit(old: ExperimentConfig, new: ExperimentConfig, now_us: int) -> None:
    """Raises ConfigError unless a live experiment may go from `old` to `new` without moving a unit between
    arms or putting one out.
    """
    if problems := sorted({change.unsafe for change in changes(old, new, now_us) if change.unsafe}):
        raise ConfigError(
            f"experiment {old.key!r} is live: {'; '.join(problems)}. That would move units between arms or out of the "
            "experiment: begin a new phase with a new salt (`sagelift experiment new-phase`)."
        )


def check_new_phase(key: str, state: ExperimentState, phase: int, old: ExperimentConfig, new: ExperimentConfig) -> None:
    """Raises unless `new` may begin the phase after `phase`. TransitionError: only what is live or stopped has phases;
    ConfigError: the salt is the old one.
    """
    if state not in SERVED:
        raise TransitionError(
            f"experiment {key!r} is {state}; a new phase follows one that ran (running, paused or stopped). "
            "Publish the config instead."
            if state in ("draft", "in_review")
            else f"experiment {key!r} is {state}: it is over. Start a new experiment with a new salt."
        )
    if new.salt == old.salt:
        raise ConfigError(
            f"experiment {key!r}: a new phase draws anew, and salt {new.salt!r} is that of phase {phase}. "
            f"Give a new one, such as {f'{key}-{phase + 1}'!r}."
        )


def check_ramp(key: str, old: int, new: int) -> None:
    """Raises ConfigError unless the coverage grows."""
    if not old < new <= 10_000:
        raise ConfigError(
            f"experiment {key!r}: a ramp raises the coverage from {old}, to at most 10000; got {new}. "
            "To lower it would put units out: begin a new phase with a new salt."
        )


def check_layer(config: ExperimentConfig, live: Iterable[ExperimentConfig]) -> None:
    """Raises ConflictError when `config`'s layer range overlaps that of another live experiment (L3)."""
    for other in overlapping(config, live):
        assert config.layer is not None
        assert other.layer is not None
        raise ConflictError(
            f"experiment {config.key!r} wants [{config.layer.start}, {config.layer.end}) of layer "
            f"{config.layer.key!r}, but {other.key!r} is live on [{other.layer.start}, {other.layer.end}): "
            "choose a free range or stop the other."
        )


def overlapping(config: ExperimentConfig, others: Iterable[ExperimentConfig]) -> Iterator[ExperimentConfig]:
    """The experiments whose layer range shares buckets with `config`'s."""
    for other in others:
        if other.key == config.key or config.layer is None or other.layer is None:
            continue
        if _overlap(config.layer, other.layer):
            yield other


def _overlap(a: LayerRange, b: LayerRange) -> bool:
    return a.key == b.key and a.start < b.end and b.start < a.end

"""The rules of an experiment's life: which state may follow which, and what a live one may change. Pure.

    draft -> running <-> paused
    running | paused -> stopped -> decided (ship | roll_back | inconclusive)

A paused experiment keeps serving its arms and enrols no one; a stopped one serves control.
"""

from collections.abc import Iterable, Iterator
from typing import Final, Literal

from experiments.config import ExperimentConfig, LayerRange, State
from experiments.errors import ConfigError, ConflictError, TransitionError

Outcome = Literal["ship", "roll_back", "inconclusive"]

FOLLOWERS: Final[dict[State, tuple[State, ...]]] = {
    "draft": ("running",),
    "running": ("paused", "stopped"),
    "paused": ("running", "stopped"),
    "stopped": ("decided",),
    "decided": (),
}
LIVE: Final[tuple[State, ...]] = ("running", "paused")
"""States that serve arms: they hold their layer range, and their config only takes safe edits."""

SERVED: Final[tuple[State, ...]] = (*LIVE, "stopped")
"""States that a service must know of: a stopped experiment serves control."""


def check_transition(key: str, current: State, following: State, outcome: Outcome | None) -> None:
    """Raises TransitionError unless `following` may come after `current`, with an outcome exactly when
    decided.
    """
    allowed = FOLLOWERS[current]
    if following not in allowed:
        remedy = f"it may become {' or '.join(allowed)}" if allowed else "nothing follows"
        raise TransitionError(f"experiment {key!r} is {current} and cannot become {following}: {remedy}.")
    if (outcome is not None) != (following == "decided"):
        raise TransitionError(
            f"experiment {key!r}: an outcome (ship, roll_back or inconclusive) is given when it is decided, "
            f"and only then; got {outcome!r} for {following}."
        )


def check_edit(old: ExperimentConfig, new: ExperimentConfig) -> None:
    """Raises ConfigError unless a live experiment may go from `old` to `new` without moving a unit between
    arms.
    """
    if problems := list(_unsafe_changes(old, new)):
        raise ConfigError(
            f"experiment {old.key!r} is live: {'; '.join(problems)}. That would move units between arms or out of the "
            "experiment: stop it and start a new experiment with a new salt."
        )


def _unsafe_changes(old: ExperimentConfig, new: ExperimentConfig) -> Iterator[str]:
    for field in ("hash_version", "salt", "unit_kind", "layer", "arms", "control"):
        if getattr(old, field) != getattr(new, field):
            yield f"{field} changed"
    if new.coverage < old.coverage:
        yield f"coverage lowered from {old.coverage} to {new.coverage}"


def check_layer(config: ExperimentConfig, live: Iterable[ExperimentConfig]) -> None:
    """Raises ConflictError when `config`'s layer range overlaps that of another live experiment (L3)."""
    if config.layer is None:
        return
    for other in live:
        if other.key != config.key and other.layer is not None and _overlap(config.layer, other.layer):
            raise ConflictError(
                f"experiment {config.key!r} wants [{config.layer.start}, {config.layer.end}) of layer "
                f"{config.layer.key!r}, but {other.key!r} is live on [{other.layer.start}, {other.layer.end}): "
                "choose a free range or stop the other."
            )


def _overlap(a: LayerRange, b: LayerRange) -> bool:
    return a.key == b.key and a.start < b.end and b.start < a.end

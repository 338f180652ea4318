"""The life cycle of an experiment: its states, and which state may follow which.

    draft <-> in_review -> running <-> paused
    running | paused -> stopped -> decided (ship | roll_back | inconclusive) -> archived

A paused experiment keeps serving its arms and enrols no new unit. A stopped one serves the control arm. A stopped
experiment can run again in a new phase: new salt, new draws for every unit, and a report of its own. `edits` has the
rules for changes of a live experiment's config.
"""

from typing import Final, Literal

from experiments.config import ExperimentConfig, ExperimentState
from experiments.errors import ConfigError, TransitionError

Decision = Literal["ship", "roll_back", "inconclusive"]
"""How an experiment ends."""

Action = Literal["start", "pause", "ramp", "stop"]
"""The commands that can be scheduled."""

FOLLOWERS: Final[dict[ExperimentState, tuple[ExperimentState, ...]]] = {
    "draft": ("in_review", "running", "archived"),
    "in_review": ("draft", "running", "archived"),
    "running": ("paused", "stopped"),
    "paused": ("running", "stopped"),
    "stopped": ("decided",),  # or running, in a new phase
    "decided": ("archived",),
    "archived": (),
}
"""The states that may follow each state."""

LIVE: Final[tuple[ExperimentState, ...]] = ("running", "paused")
"""States that serve arms: the experiment holds its layer range, and its config takes only safe edits."""

SERVED: Final[tuple[ExperimentState, ...]] = (*LIVE, "stopped")
"""States that a service evaluates: a stopped experiment serves the control arm."""


def check_transition(key: str, current: ExperimentState, following: ExperimentState, outcome: Decision | None) -> None:
    """Check that a state may follow the current one, with an outcome only for `decided`.

    Args:
        key: Key of the experiment, for the message.
        current: State of the experiment.
        following: The next state.
        outcome: How the experiment ends.

    Raises:
        TransitionError: The life cycle has no such transition, or the outcome is missing or misplaced.
    """
    allowed = FOLLOWERS[current]
    if following not in allowed:
        remedy = f"it may become {' or '.join(allowed)}" if allowed else "no state follows"
        if current == "stopped":
            remedy += ", or run again in a new phase with a new salt"
        raise TransitionError(f"experiment {key!r} is {current} and cannot become {following}: {remedy}.")
    if (outcome is not None) != (following == "decided"):
        raise TransitionError(
            f"experiment {key!r}: an outcome (ship, roll_back or inconclusive) is required for decided "
            f"and not allowed for any other state; got {outcome!r} for {following}."
        )


def check_new_phase(key: str, state: ExperimentState, phase: int, old: ExperimentConfig, new: ExperimentConfig) -> None:
    """Check that a config may begin the next phase.

    Args:
        key: Key of the experiment.
        state: State of the experiment.
        phase: The current phase.
        old: Config in force.
        new: Config of the next phase.

    Raises:
        TransitionError: The experiment never ran, or it is over.
        ConfigError: The new config has the old salt.
    """
    if state not in SERVED:
        raise TransitionError(
            f"experiment {key!r} is {state}; a new phase follows a phase that ran (running, paused or stopped). "
            "Publish the config instead."
            if state in ("draft", "in_review")
            else f"experiment {key!r} is {state}: it is over. Start a new experiment with a new salt."
        )
    if new.salt == old.salt:
        raise ConfigError(
            f"experiment {key!r}: a new phase needs new draws, and salt {new.salt!r} is that of phase {phase}. "
            f"Give a new one, such as {f'{key}-{phase + 1}'!r}."
        )

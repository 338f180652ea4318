"""The states of an experiment: which may follow which, and which experiments may begin a new phase."""

from typing import get_args

import pytest

from experiments import lifecycle
from experiments.config import ExperimentConfig, ExperimentState
from experiments.errors import ConfigError, TransitionError
from tests.experiments.builders import changed

STATES: tuple[ExperimentState, ...] = get_args(ExperimentState)


@pytest.mark.parametrize("current", STATES)
@pytest.mark.parametrize("following", STATES)
def test_a_state_is_followed_only_by_its_followers(current: ExperimentState, following: ExperimentState) -> None:
    outcome = "ship" if following == "decided" else None
    if following in lifecycle.FOLLOWERS[current]:
        lifecycle.check_transition("ranking", current, following, outcome)  # type: ignore[arg-type]
    else:
        with pytest.raises(TransitionError, match=f"is {current} and cannot become {following}"):
            lifecycle.check_transition("ranking", current, following, outcome)  # type: ignore[arg-type]


def test_every_state_leads_to_archived() -> None:
    reached = {"archived"}
    while more := {state for state in STATES if reached & set(lifecycle.FOLLOWERS[state])} - reached:
        reached |= more
    assert reached == set(STATES)


@pytest.mark.parametrize(("following", "outcome"), [("decided", None), ("stopped", "ship")])
def test_an_outcome_belongs_to_decided_and_to_no_other_state(following: str, outcome: str | None) -> None:
    current = "stopped" if following == "decided" else "running"
    with pytest.raises(TransitionError, match=r"an outcome .* is required for decided and not allowed for any other"):
        lifecycle.check_transition("ranking", current, following, outcome)  # type: ignore[arg-type]


@pytest.mark.parametrize("state", STATES)
def test_a_new_phase_follows_a_served_state(config: ExperimentConfig, state: ExperimentState) -> None:
    new = changed(config, salt="ranking-2")
    if state in lifecycle.SERVED:
        lifecycle.check_new_phase("ranking", state, 1, config, new)
    else:
        remedy = "Publish the config instead" if state in ("draft", "in_review") else "Start a new experiment"
        with pytest.raises(TransitionError, match=remedy):
            lifecycle.check_new_phase("ranking", state, 1, config, new)


def test_a_new_phase_needs_a_new_salt(config: ExperimentConfig) -> None:
    with pytest.raises(ConfigError, match=r"salt 'ranking-1' is that of phase 3\. Give a new one, such as 'ranking-4'"):
        lifecycle.check_new_phase("ranking", "running", 3, config, changed(config, coverage=1))

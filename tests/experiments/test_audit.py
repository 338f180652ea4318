"""Every change adds one entry to the audit log; a refused change adds none."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from experiments.config import ExperimentConfig, Override
from experiments.errors import ExperimentsError, TransitionError
from experiments.store import ExperimentStore
from tests.experiments.builders import NOW, WHO, changed, start_live


def test_every_change_has_an_audit_entry_and_a_refused_one_has_none(
    store: ExperimentStore, config: ExperimentConfig
) -> None:
    narrow = changed(config, coverage=100)
    acts: list[tuple[str, Callable[[], Any]]] = [
        ("create", lambda: store.create_experiment("ranking", **WHO)),
        ("publish", lambda: store.publish(narrow, **WHO)),
        ("in_review", lambda: store.submit("ranking", **WHO)),
        ("running", lambda: store.start("ranking", **WHO)),
        ("ramp", lambda: store.ramp("ranking", 200, **WHO)),
        ("schedule", lambda: store.schedule("ranking", "stop", NOW + 1, **WHO)),
        ("cancel", lambda: store.cancel(1, **WHO)),
        ("hold", lambda: store.hold("ranking", **WHO)),
        ("force_arm", lambda: store.force_arm("ranking", Override("u", "control", NOW + 1), **WHO)),
        ("clear_arm", lambda: store.clear_arm("ranking", "u", **WHO)),
        ("new_phase", lambda: store.new_phase(changed(config, salt="r2"), **WHO)),
        ("paused", lambda: store.pause("ranking", **WHO)),
        ("stopped", lambda: store.stop("ranking", evidence={"p": 0.01}, **WHO)),
        ("decided", lambda: store.decide("ranking", "roll_back", **WHO)),
        ("archived", lambda: store.archive("ranking", **WHO)),
    ]
    for name, act in acts:
        before = store.audit()
        act()
        entry, *rest = store.audit()
        assert rest == before
        assert (entry.action, entry.subject, entry.actor, entry.reason, entry.at) == (
            name,
            "ranking",
            "ada",
            "test",
            NOW,
        )
    assert store.audit()[2].detail["evidence"] == {"p": 0.01}
    before = store.audit()
    for _, act in acts:
        with suppress(ExperimentsError):
            act()
        assert store.audit() == before
    assert [e.id for e in store.audit(before=before[3].id, limit=2)] == [e.id for e in before[4:6]]
    assert store.audit("other") == []


def test_a_change_without_an_actor_writes_nothing(store: ExperimentStore, config: ExperimentConfig) -> None:
    start_live(store, config)
    before = store.audit()
    for act in (store.pause, store.stop):
        with pytest.raises(TransitionError, match="the actor is empty"):
            act("ranking", actor="", reason="x")
    assert store.audit() == before

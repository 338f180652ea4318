"""Consumers, model and broker are killed while a seeded stream is under way: nothing is lost, stale or wrong.

`python -m benchmarks faults --updates N` is the same at length, with more kinds of disturbance.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from benchmarks._fault_stories import EventStory, Story
from benchmarks.faults import (
    Site,
    disturbed,
    join_and_kill,
    judged,
    kill_broker,
    kill_model,
    kill_sink,
)
from feature_repo.rows import Deletion
from sagelift.services import Services
from sagelift.settings import load_settings
from sagelift.stack.kafka import KafkaBroker
from sagelift.stack.triton import TritonServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]


@pytest.fixture
def kafka(cache: Path, tmp_path: Path) -> Iterator[KafkaBroker]:
    """A broker of its own: it is killed, and others count what is on theirs."""
    with KafkaBroker(tmp_path / "kafka", cache) as broker:
        yield broker


@pytest.fixture
def site(kafka: KafkaBroker, triton: TritonServer, model_repository: Path, tmp_path: Path) -> Iterator[Site]:
    settings = load_settings(
        state_dir=tmp_path / "state",
        kafka={"bootstrap_servers": kafka.bootstrap},
        triton={"url": triton.grpc, "model_repository": model_repository},
    )
    with Services(settings) as services:
        yield Site(services, kafka, triton, tmp_path)


def test_what_a_disturbed_run_leaves_is_what_an_undisturbed_one_leaves(site: Site) -> None:
    story, events = Story("storm-", 600, site.pictures, seed=11, poison=0.03), EventStory("storm-", 600, seed=12)
    verdict = disturbed(site, story, events, [kill_sink, kill_model, join_and_kill, kill_broker], print)
    assert verdict.products > 40
    assert (verdict.lost, verdict.stale, verdict.wrong) == (0, 0, 0)
    assert verdict.poison >= 10
    assert verdict.poison_missing == 0
    assert verdict.poison_copies <= 3, "at most one for each time that its batch was read"
    assert (verdict.events, verdict.events_wrong, verdict.event_poison_missing) == (len(events.messages), 0, 0)
    assert len(events.poison) > 2

    # The judge sees what is missing.
    page = next(iter(site.services.features.scan_features()))
    site.services.features.delete([Deletion(id=page[0].id, version=10**6, event_time=page[0].event_time)])
    with site.services.database.begin() as connection:
        connection.execute(text("delete from event where event_id = :id"), {"id": min(events.clicks)})
    again = judged(site, story, events)
    assert (again.lost, again.events_wrong) == (1, 1)

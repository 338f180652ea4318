"""The catalogue consumer and the event sink under kills, outages and bad messages, against an undisturbed run.

Measures how many products and events differ from a run without faults; the goal is 0.

A seeded stream of upserts, patches, deletes, duplicates, old versions and 1 % bad messages of ten kinds goes through
real consumers, a real broker and a real Triton. During the stream consumers are killed, join and leave; Triton's model
processes, Triton and the broker are killed; the broker hangs for a minute; the feature store is locked; no file can
grow. Then every product's features, embedding and last records on `product.embeddings` and `product.offers` are
compared with those of the same stream in one pipeline in one process. At the same time a stream of events with
duplicates, early refunds and bad messages goes into the database.

* `lost`: products whose features, embedding or vector on the topic are missing, or that are present though deleted.
* `stale`: products of an older version.
* `wrong`: products with other content.
* `poison_missing`: bad messages without a dead letter.
* `poison_copies`: the largest number of dead letters of one bad message. A batch in flight is read again after a
  consumer died, so one copy per death is possible.
* `events_wrong`: events that the database lacks, has twice, or has with other content.
* `event_poison_missing`: bad events without a dead letter.

`--updates` is the length of each stream. Each fault happens once per 10,000 updates; a shorter stream gets each short
fault once. `--faults` chooses the faults by name.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks._fault_comparison import FaultReport, compare
from benchmarks._fault_kinds import FAULTS, LONG_FAULTS, Fault
from benchmarks._fault_site import Consumers, Site, own_site, publish
from benchmarks._fault_stories import EventStory, Story
from benchmarks.harness import Row, Say, figure
from streaming.kafka.topic_admin import ensure_topics
from streaming.kafka.topics import CATALOG_UPDATES, EVENTS

UPDATES = 6_000


def rows(say: Say, updates: int = UPDATES, faults: Sequence[str] = ()) -> list[Row]:
    """Measure all figures on own servers.

    Args:
        say: Shows progress.
        updates: Length of each stream; a tenth as many products.
        faults: Names of the faults; by default all that suit the length.

    Raises:
        ValueError: There is no fault of this name.
    """
    chosen = _choose(faults, updates)
    with tempfile.TemporaryDirectory(prefix="sagelift-faults-") as folder, own_site(Path(folder), say) as site:
        story = Story("f-", updates, site.pictures, seed=7)
        report = disturbed(site, story, EventStory("f-", updates, seed=8), chosen, say)
    say(f"{report.products} products, {report.poison} bad messages, {report.events} events")
    return [
        figure("lost", "products", float(report.lost), at_most=0.0),
        figure("stale", "products", float(report.stale), at_most=0.0),
        figure("wrong", "products", float(report.wrong), at_most=0.0),
        figure("poison_missing", "messages", float(report.poison_missing), at_most=0.0),
        figure("poison_copies", "dead letters of one message", float(report.poison_copies)),
        figure("events_wrong", "events", float(report.events_wrong), at_most=0.0),
        figure("event_poison_missing", "messages", float(report.event_poison_missing), at_most=0.0),
    ]


def disturbed(site: Site, story: Story, events: EventStory, faults: Sequence[Fault], say: Say) -> FaultReport:
    """Send both streams through the consumers, one part before each fault, and compare the result."""
    ensure_topics(site.services.kafka)
    parts = np.array_split(np.arange(len(story.messages)), len(faults))
    event_parts = np.array_split(np.arange(len(events.messages)), len(faults))
    with Consumers(site) as consumers:
        for fault, part, event_part in zip(faults, parts, event_parts, strict=True):
            say(f"{len(part)} messages, then: {fault.__doc__}")
            middle = consumers.left() + len(part) * 2 // 3
            publish(site.services, EVENTS, [events.messages[i] for i in event_part])
            publish(site.services, CATALOG_UPDATES, [(m.key, m.value) for i in part if (m := story.messages[i])])
            consumers.wait_until_left(middle)  # so that work is in flight in most cases
            fault(site, consumers)
        say("waiting for the consumers to finish")
        consumers.wait_until_left(0)
        consumers.end()
    return compare(site, story, events)


def _choose(names: Sequence[str], updates: int) -> Sequence[Fault]:
    if not names:
        return (*FAULTS, *LONG_FAULTS) * (updates // 10_000) or FAULTS
    by_name = {fault.__name__: fault for fault in (*FAULTS, *LONG_FAULTS)}
    if unknown := [name for name in names if name not in by_name]:
        raise ValueError(f"there is no fault {unknown[0]!r}; it must be one of {', '.join(by_name)}")
    return [by_name[name] for name in names]

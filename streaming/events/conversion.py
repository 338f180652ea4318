"""The one conversion between the `Event` message of Kafka and the `EventRow` of the experiment store."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from experiments.event_rows import EventRow
from experiments.times import epoch_us, from_epoch_us
from feature_repo.recent import Engagement
from streaming.contracts import Event

# Kinds of event that show what a shopper likes. An impression does not.
_ENGAGED = frozenset({"click", "save", "add_to_cart", "order"})


def to_row(event: Event) -> EventRow:
    """Convert a message to a row: its time becomes microseconds since the Unix epoch."""
    fields = msgspec.structs.asdict(event)
    fields["event_time"] = epoch_us(event.event_time)
    return EventRow(**fields)


def to_event(row: EventRow) -> Event:
    """Convert a row to a message, to send it to Kafka. The reverse of `to_row`."""
    fields = msgspec.structs.asdict(row)
    fields["event_time"] = from_epoch_us(row.event_time)
    return Event(**fields)


def to_engagements(rows: Iterable[EventRow]) -> list[Engagement]:
    """Return the engagements of shoppers with products, for the feature store's lists of recent products."""
    return [
        Engagement(row.unit_id, row.product_id, row.event_time)
        for row in rows
        if row.kind in _ENGAGED and row.product_id
    ]

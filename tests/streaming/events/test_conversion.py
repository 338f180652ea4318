"""Messages and rows convert to each other without loss, and engagements are the events that show a preference."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.event_rows import EventRow
from feature_repo.recent import Engagement
from streaming.contracts import Event
from streaming.events.conversion import to_engagements, to_event, to_row
from streaming.kafka.codec import JSON
from tests.streaming.builders import NOW, decode_event


@given(st.datetimes(datetime(1970, 1, 1), datetime(2400, 1, 1), timezones=st.just(UTC)))
def test_an_event_becomes_a_row_and_the_same_event_again(at: datetime) -> None:
    event = Event(
        event_id="e", kind="impression", unit_id="u", event_time=at, product_id="p", surface="search", query="q"
    )
    assert to_event(to_row(event)) == event


def test_an_exposure_with_attributes_survives_kafka() -> None:
    attributes: dict[str, str | int | float | bool] = {"country": "DE", "age": 30, "score": 1.5, "new": True}
    row = EventRow(
        event_id="e", kind="exposure", unit_id="u", event_time=1, experiment="x", arm="a", config_version=1,
        attributes=attributes,
    )  # fmt: skip
    assert to_row(decode_event(JSON.encode(to_event(row)), now=NOW)) == row


def test_a_message_and_a_row_have_the_same_fields() -> None:
    """The conversion copies every field, so a field that only one of them has must not go unnoticed."""
    assert Event.__struct_fields__ == EventRow.__struct_fields__


@pytest.mark.parametrize(
    ("kind", "is_engagement"),
    [("click", True), ("save", True), ("add_to_cart", True), ("order", True), ("impression", False), ("refund", False)],
)
def test_an_engagement_shows_what_a_shopper_likes(kind: str, is_engagement: bool) -> None:
    row = EventRow(event_id="e", kind=kind, unit_id="u", event_time=7, product_id="p")
    assert to_engagements([row]) == ([Engagement("u", "p", 7)] if is_engagement else [])
    assert to_engagements([msgspec.structs.replace(row, product_id=None)]) == []

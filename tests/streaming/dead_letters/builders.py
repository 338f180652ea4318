"""Letters for tests."""

from __future__ import annotations

from datetime import timedelta

from streaming.contracts import ERROR_HEADERS
from streaming.dead_letters.letters import Letter, LetterId
from streaming.kafka.connection import TopicPartition
from tests.streaming.builders import NOW

TP = TopicPartition("catalog.updates.dlq", 0)


def letter(offset: int = 0, *, after: float = 0, key: bytes | None = b"p", **facts: str) -> Letter:
    """A letter at this offset of `TP`, so many seconds after `NOW`; `facts` are its error headers."""
    names = {"error": "exception.class.name", "message": "exception.message", "group": "consumer.group"}
    headers = [(ERROR_HEADERS + names.get(name, name), value.encode()) for name, value in facts.items()]
    return Letter(LetterId(*TP, offset), NOW + timedelta(seconds=after), key, b"{", headers)


def event_letter(offset: int, *, stage: str = "decode", value: bytes | None = b"{", **headers: bytes) -> Letter:
    """A letter of `events` at this offset, with these error headers and others."""
    named = [(ERROR_HEADERS + "stage", stage.encode()), *headers.items()]
    return Letter(LetterId("events.dlq", 0, offset), NOW, f"k{offset}".encode(), value, named)

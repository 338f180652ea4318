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

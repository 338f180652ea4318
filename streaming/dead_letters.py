"""Messages that cannot be used: original key and value untouched, and headers that say what happened.

Header names are Kafka Connect's (`__connect.errors.*`), so that existing tools read them. A header that a message
brought along from an earlier failure is replaced, never doubled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from streaming.errors import BrokerError
from streaming.kafka import KafkaError, KafkaProducer
from streaming.topics import dead_letter_topic

_PREFIX = "__connect.errors."
_MAX_MESSAGE = 1_000


class DeadLetter(msgspec.Struct, frozen=True):
    """A record that failed: where (`stage`: decode, merge, image, embed, store) and why."""

    record: Any
    stage: str
    error: str
    message: str


class DeadLetters:
    """Writes dead letters; `send_all` returns when the broker has them."""

    def __init__(self, producer: KafkaProducer, group: str) -> None:
        self._producer = producer
        self._group = group

    def send_all(self, letters: Sequence[DeadLetter]) -> None:
        """Raises BrokerError when the broker does not take them: then nothing may be committed."""
        try:
            sent = [
                self._producer.send(
                    dead_letter_topic(letter.record.topic),
                    key=letter.record.key,
                    value=letter.record.value,
                    headers=self._headers(letter),
                )
                for letter in letters
            ]
            self._producer.flush(30)
            for future in sent:
                future.get(30)
        except KafkaError as error:
            raise BrokerError(f"{len(letters)} dead letters were not taken: {type(error).__name__}") from error

    def _headers(self, letter: DeadLetter) -> list[tuple[str, bytes]]:
        record = letter.record
        kept = [(k, v) for k, v in record.headers or () if not k.startswith(_PREFIX)]
        facts = {
            "topic": record.topic,
            "partition": record.partition,
            "offset": record.offset,
            "consumer.group": self._group,
            "stage": letter.stage,
            "exception.class.name": letter.error,
            "exception.message": letter.message[:_MAX_MESSAGE],
        }
        return kept + [(_PREFIX + k, str(v).encode("utf-8", "replace")) for k, v in facts.items()]

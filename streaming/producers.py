"""Putting catalogue updates and shop events on Kafka."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from kafka.errors import KafkaTimeoutError

from streaming.contracts import SCHEMA_HEADER, SCHEMA_VERSION, Event, ProductUpdate, encode
from streaming.errors import BrokerError
from streaming.kafka import Connection, KafkaError
from streaming.topics import CATALOG_UPDATES, EVENTS

_HEADERS = [(SCHEMA_HEADER, SCHEMA_VERSION)]


class _Publisher:
    """Sends in the background; `flush` (and leaving the `with` block) returns when the broker has everything."""

    def __init__(self, connection: Connection, topic: str) -> None:
        self._producer = connection.producer()
        self._topic = topic
        self._failed: list[Exception] = []

    def _send(self, key: str, value: bytes) -> None:
        self._raise_failed()
        try:
            sent = self._producer.send(self._topic, key=key.encode("utf-8"), value=value, headers=_HEADERS)
        except (KafkaTimeoutError, KafkaError) as error:
            raise BrokerError(f"{self._topic}: the broker takes nothing ({type(error).__name__})") from error
        sent.add_errback(self._failed.append)

    def flush(self, timeout_s: float = 60.0) -> None:
        """Wait until the broker has acknowledged everything sent.

        Raises:
            BrokerError: it has not within the time, or refused a message.
        """
        try:
            self._producer.flush(timeout_s)
        except KafkaError as error:
            raise BrokerError(f"{self._topic}: not acknowledged within {timeout_s:.0f} s") from error
        self._raise_failed()

    def _raise_failed(self) -> None:
        if self._failed:
            error = self._failed[0]
            raise BrokerError(f"{self._topic}: a message was refused: {type(error).__name__}: {error}") from error

    def close(self) -> None:
        """Flush and give the connection back."""
        try:
            self.flush()
        finally:
            self._producer.close(5)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class CatalogPublisher(_Publisher):
    """Puts product updates on `catalog.updates`, keyed by product id: one product's updates stay in order."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection, CATALOG_UPDATES)

    def send(self, update: ProductUpdate) -> None:
        """Queue one update; raises BrokerError when an earlier one was refused."""
        self._send(update.id, encode(update))

    def send_all(self, updates: Iterable[ProductUpdate], on_sent: Callable[[int], None] = lambda n: None) -> int:
        """Queue all, then wait for the broker; returns how many."""
        count = 0
        for count, update in enumerate(updates, 1):
            self.send(update)
            on_sent(count)
        self.flush()
        return count


class EventPublisher(_Publisher):
    """Puts events on `events`, keyed by unit id: one unit's events stay in order."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection, EVENTS)

    def send(self, event: Event) -> None:
        """Queue one event; raises BrokerError when an earlier one was refused."""
        self._send(event.unit_id, encode(event))

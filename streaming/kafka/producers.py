"""Publishers of catalogue updates and shop events."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any, Self

from streaming.contracts import MAX_MESSAGE_BYTES, SCHEMA_HEADER, SCHEMA_VERSION, Event, ProductUpdate
from streaming.errors import BrokerError, ContractError
from streaming.kafka.connection import Connection, KafkaError, explained
from streaming.kafka.topics import CATALOG_UPDATES, EVENTS

_HEADERS = [(SCHEMA_HEADER, SCHEMA_VERSION)]


class _Publisher:
    """Sends in the background. `flush` and the end of the `with` block wait until the broker has everything."""

    def __init__(self, connection: Connection, topic: str) -> None:
        self._producer = connection.producer()
        self._codec = connection.codec
        self._topic = topic
        self._failed: list[Exception] = []

    def _send(self, key: str, message: ProductUpdate | Event) -> None:
        self._raise_failed()
        self._queue(key, message).add_errback(self._failed.append)

    def _queue(self, key: str, message: ProductUpdate | Event) -> Any:
        """Queue one message; return kafka-python's future of it."""
        try:
            value = self._codec.encode(message)
            raw_key = key.encode("utf-8")
        except UnicodeEncodeError:
            raise ContractError("", f"{key!r} contains a lone surrogate: it is not valid Unicode") from None
        if len(value) > MAX_MESSAGE_BYTES:
            raise ContractError(
                "", f"{key!r} makes a message of {len(value)} bytes, at most {MAX_MESSAGE_BYTES} are allowed"
            )
        try:
            return self._producer.send(self._topic, key=raw_key, value=value, headers=_HEADERS)
        except KafkaError as error:
            raise BrokerError(f"{self._topic}: the message cannot be queued ({explained(error)})") from error

    def flush(self, timeout_s: float = 60.0) -> None:
        """Wait until the broker has acknowledged everything that was sent.

        Args:
            timeout_s: Longest wait, in seconds.

        Raises:
            BrokerError: The broker did not acknowledge within the time, or refused a message. Each refusal is raised
                once.
        """
        try:
            self._producer.flush(timeout_s)
        except KafkaError as error:
            raise BrokerError(f"{self._topic}: not acknowledged within {timeout_s:.0f} s") from error
        self._raise_failed()

    def _raise_failed(self) -> None:
        if count := len(self._failed):
            error = self._failed[0]
            del self._failed[:count]  # the producer's thread may append at the same time
            raise self._refused(error) from error

    def _refused(self, error: Exception) -> BrokerError:
        return BrokerError(f"{self._topic}: a message was refused: {explained(error)}")

    def close(self) -> None:
        """Flush, then close the connection."""
        try:
            self.flush()
        finally:
            self._producer.close(5)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class CatalogPublisher(_Publisher):
    """Publishes product updates on `catalog.updates`, keyed by product id, which keeps a product's updates in order."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection, CATALOG_UPDATES)

    def send(self, update: ProductUpdate) -> None:
        """Queue one update.

        Raises:
            ContractError: The update cannot be sent (lone surrogates, too large). Other updates are not affected.
            BrokerError: The broker refused an earlier update.
            SchemaError: The schema registry does not accept our schema.
            RegistryError: The schema registry does not answer.
        """
        self._send(update.id, update)

    def send_all(self, updates: Iterable[ProductUpdate], on_sent: Callable[[int], None] = lambda n: None) -> int:
        """Queue all updates, wait until the broker has them, and return their number.

        Args:
            updates: The updates.
            on_sent: Called after each queued update with the number of updates so far.
        """
        count = 0
        for count, update in enumerate(updates, 1):
            self.send(update)
            on_sent(count)
        self.flush()
        return count


class EventPublisher(_Publisher):
    """Publishes events on `events`, keyed by unit id, which keeps a unit's events in order."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection, EVENTS)

    def send(self, event: Event) -> None:
        """Queue one event; raises the errors of `CatalogPublisher.send`."""
        self._send(event.unit_id, event)

    def deliver(self, event: Event) -> Future[None]:
        """Queue one event; the future completes when the broker has it, or fails with a BrokerError.

        For callers that retry failed events: neither `flush` nor later sends raise this event's error.

        Raises:
            ContractError: The event cannot be sent.
            BrokerError: The producer's buffer is full.
        """
        delivery: Future[None] = Future()
        sent = self._queue(event.unit_id, event)
        sent.add_callback(lambda _: delivery.set_result(None))
        sent.add_errback(lambda error: delivery.set_exception(self._refused(error)))
        return delivery

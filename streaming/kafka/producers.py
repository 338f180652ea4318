"""Putting catalogue updates and shop events on Kafka."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any, Self

from streaming.contracts import MAX_MESSAGE_BYTES, SCHEMA_HEADER, SCHEMA_VERSION, Event, ProductUpdate, encode
from streaming.errors import BrokerError, ContractError
from streaming.kafka.connection import Connection, KafkaError, explained
from streaming.kafka.topics import CATALOG_UPDATES, EVENTS

_HEADERS = [(SCHEMA_HEADER, SCHEMA_VERSION)]


class _Publisher:
    """Sends in the background; `flush` (and leaving the `with` block) returns when the broker has everything."""

    def __init__(self, connection: Connection, topic: str) -> None:
        self._producer = connection.producer()
        self._encode = encode if connection.wire is None else connection.wire.encode
        self._topic = topic
        self._failed: list[Exception] = []

    def _send(self, key: str, message: ProductUpdate | Event) -> None:
        self._raise_failed()
        self._queue(key, message).add_errback(self._failed.append)

    def _queue(self, key: str, message: ProductUpdate | Event) -> Any:
        """kafka-python's future of one message."""
        try:
            value = self._encode(message)
            raw_key = key.encode("utf-8")
        except UnicodeEncodeError:
            raise ContractError("", f"{key!r} holds a lone surrogate: it is not valid Unicode") from None
        if len(value) > MAX_MESSAGE_BYTES:
            raise ContractError("", f"{key!r} makes a message of {len(value)} bytes, at most {MAX_MESSAGE_BYTES} go")
        try:
            return self._producer.send(self._topic, key=raw_key, value=value, headers=_HEADERS)
        except KafkaError as error:
            raise BrokerError(f"{self._topic}: the broker takes nothing ({explained(error)})") from error

    def flush(self, timeout_s: float = 60.0) -> None:
        """Wait until the broker has acknowledged everything sent.

        Raises:
            BrokerError: it has not within the time, or refused a message; each refusal is told once.
        """
        try:
            self._producer.flush(timeout_s)
        except KafkaError as error:
            raise BrokerError(f"{self._topic}: not acknowledged within {timeout_s:.0f} s") from error
        self._raise_failed()

    def _raise_failed(self) -> None:
        if count := len(self._failed):
            error = self._failed[0]
            del self._failed[:count]  # the producer's thread may append meanwhile
            raise self._refused(error) from error

    def _refused(self, error: Exception) -> BrokerError:
        return BrokerError(f"{self._topic}: a message was refused: {explained(error)}")

    def close(self) -> None:
        """Flush and give the connection back."""
        try:
            self.flush()
        finally:
            self._producer.close(5)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class CatalogPublisher(_Publisher):
    """Puts product updates on `catalog.updates`, keyed by product id: one product's updates stay in order."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection, CATALOG_UPDATES)

    def send(self, update: ProductUpdate) -> None:
        """Queue one update.

        Raises:
            ContractError: it cannot be sent at all (lone surrogates, too large); nothing else is affected.
            BrokerError: an earlier one was refused.
            SchemaError, RegistryError: a schema registry is in use, and does not take our schema or does not answer.
        """
        self._send(update.id, update)

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
        """Queue one event; raises as `CatalogPublisher.send` does."""
        self._send(event.unit_id, event)

    def deliver(self, event: Event) -> Future[None]:
        """Queue one event; the future says whether the broker took it (else it holds a BrokerError).

        For callers that send again what failed: neither `flush` nor other sends say anything of it.

        Raises:
            ContractError: it cannot be sent at all.
            BrokerError: there is no room left for what the broker does not take.
        """
        outcome: Future[None] = Future()
        sent = self._queue(event.unit_id, event)
        sent.add_callback(lambda _: outcome.set_result(None))
        sent.add_errback(lambda error: outcome.set_exception(self._refused(error)))
        return outcome

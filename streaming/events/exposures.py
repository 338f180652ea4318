"""Sends the exposures of an `ExposureLogger` to the topic `events`."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Protocol

from experiments.event_rows import EventRow
from streaming.contracts import Event
from streaming.events.conversion import to_event


class EventDelivery(Protocol):
    """The part of `streaming.kafka.producers.EventPublisher` that sends one event."""

    def deliver(self, event: Event) -> Future[None]:
        """Queue one event; the future has the broker's answer."""


class ExposureSender:
    """Sends exposures to Kafka: `ExposureLogger(ExposureSender(publisher).send)`.

    Args:
        publisher: Sends events. The caller closes it after the logger.
    """

    def __init__(self, publisher: EventDelivery) -> None:
        self._publisher = publisher

    def send(self, row: EventRow) -> Future[None]:
        """Queue one exposure.

        Args:
            row: The exposure.

        Returns:
            A future that ends when the broker has acknowledged the message, or has a BrokerError.

        Raises:
            ContractError: The exposure cannot be sent at all (a permanent error).
            BrokerError: The producer's buffer is full (a retryable error).
        """
        return self._publisher.deliver(to_event(row))

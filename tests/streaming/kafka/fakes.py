"""A stand-in of kafka-python's producer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kafka.errors import KafkaTimeoutError

from streaming.kafka.codec import JSON, Codec


class FakeProducer:
    """A connection and its producer; acknowledges or fails the messages when it is flushed."""

    codec: Codec = JSON

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes, bytes, Any]] = []
        self.refuse: Exception | None = None
        self.slow = False
        self.errbacks: list[Callable[[Exception], Any]] = []
        self.callbacks: list[Callable[[Any], Any]] = []
        self.closed = False

    def producer(self) -> FakeProducer:
        return self

    def send(self, topic: str, *, key: bytes, value: bytes, headers: Any) -> FakeProducer:
        self.sent.append((topic, key, value, headers))
        return self

    def add_errback(self, errback: Callable[[Exception], Any]) -> None:
        self.errbacks.append(errback)

    def add_callback(self, callback: Callable[[Any], Any]) -> None:
        self.callbacks.append(callback)

    def flush(self, timeout: float) -> None:
        if self.slow:
            raise KafkaTimeoutError()
        for callback in [] if self.refuse else self.callbacks:
            callback("metadata")
        for errback in self.errbacks if self.refuse else []:
            errback(self.refuse)  # type: ignore[arg-type]
        self.errbacks, self.callbacks = [], []

    def close(self, timeout: float) -> None:
        self.closed = True

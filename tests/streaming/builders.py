"""Builders of messages and records."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np

from inference.arrays import Float32Array
from streaming.contracts import Event, Price, ProductUpdate, check_event, check_update
from streaming.kafka.codec import JSON, Codec

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)


class Record(NamedTuple):
    """A Kafka record as kafka-python hands it over."""

    topic: str = "catalog.updates"
    partition: int = 0
    offset: int = 0
    timestamp: int = 0
    key: bytes | None = None
    value: bytes | None = None
    headers: Sequence[tuple[str, bytes]] = ()


def update(id: str, version: int, op: str = "upsert", **fields: Any) -> ProductUpdate:
    if op == "upsert":
        fields.setdefault("title", f"{id} {version}")
    return ProductUpdate(id=id, version=version, op=op, event_time=NOW + timedelta(seconds=version), **fields)


def price(amount: str, currency: str = "EUR") -> Price:
    return Price(Decimal(amount), currency)


def record(message: ProductUpdate | bytes, offset: int = 0, **fields: Any) -> Record:
    if isinstance(message, bytes):
        return Record(value=message, offset=offset, timestamp=1000 + offset, **fields)
    fields.setdefault("key", message.id.encode())
    return Record(value=JSON.encode(message), offset=offset, timestamp=1000 + offset, **fields)


def records(*updates: ProductUpdate) -> list[Record]:
    return [record(u, offset) for offset, u in enumerate(updates)]


def decode_update(
    value: bytes | None, *, now: datetime = NOW, unknown: Counter[str] | None = None, codec: Codec = JSON
) -> ProductUpdate:
    """The update as a consumer accepts it: decoded and checked."""
    decoded = codec.decode(ProductUpdate, value, unknown)
    check_update(decoded, now=now)
    return decoded


def decode_event(
    value: bytes | None, *, now: datetime = NOW, unknown: Counter[str] | None = None, codec: Codec = JSON
) -> Event:
    """The event as a consumer accepts it: decoded and checked."""
    decoded = codec.decode(Event, value, unknown)
    check_event(decoded, now=now)
    return decoded


def vector_of(*parts: object) -> Float32Array:
    """A unit vector that depends on nothing but the parts."""
    seed = int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "little")
    vector = np.random.default_rng(seed).normal(size=256).astype(np.float32)
    return vector / np.linalg.norm(vector)

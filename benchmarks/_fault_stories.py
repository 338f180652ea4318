"""The streams of `benchmarks.faults`: seeded product updates and events, with duplicates and bad messages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np

from streaming.contracts import Event, Price, ProductUpdate
from streaming.kafka.codec import JSON
from streaming.kafka.topics import CATALOG_UPDATES

WORDS = "red blue green oak pine table chair lamp wool coat summer dress".split()
_NOW = datetime.now(UTC).replace(microsecond=0)
_BAD_EVENTS = (
    b'{"event_id": ',
    b'{"event_id":"x","kind":"wink","unit_id":"u","event_time":"2026-05-01T00:00:00Z"}',
)


class Message(NamedTuple):
    """A Kafka record as the pipeline reads it; `poison` marks a message that cannot be used."""

    key: bytes
    value: bytes
    poison: bool = False
    topic: str = CATALOG_UPDATES
    partition: int = 0
    offset: int = 0
    timestamp: int = 0
    headers: Sequence[tuple[str, bytes]] = ()


class Story:
    """A seeded stream of product messages whose effect does not depend on the division into batches.

    Late messages are complete upserts that a newer upsert has overtaken. A late patch would be no valid test: whether
    it applies depends on the other messages of its batch.

    Args:
        prefix: Prefix of the product ids.
        updates: Number of messages.
        pictures: Paths of pictures that the products link to.
        seed: Random seed.
        poison: Share of bad messages.

    Attributes:
        prefix: Prefix of the product ids.
        messages: The messages.
    """

    def __init__(self, prefix: str, updates: int, pictures: Sequence[str], seed: int, poison: float = 0.01) -> None:
        self.prefix, self._pictures = prefix, pictures
        self._chance = np.random.default_rng(seed)
        self._products = max(10, updates // 10)
        self._versions: Counter[int] = Counter()
        self._alive: set[int] = set()
        self._overtaken: list[Message] = []  # upserts and deletions that are not the newest
        self._last_full: dict[int, Message] = {}
        self.messages: list[Message] = []
        bad = 0
        for _ in range(updates):
            if self._chance.random() < poison:
                self.messages.append(self._poison(bad))
                bad += 1
            else:
                self.messages.append(self._next())

    def _next(self) -> Message:
        n, kind = int(self._chance.integers(self._products)), self._chance.random()
        if kind < 0.1 and self.messages:
            return self.messages[int(self._chance.integers(max(0, len(self.messages) - 50), len(self.messages)))]
        if kind < 0.2 and self._overtaken:
            return self._overtaken[int(self._chance.integers(len(self._overtaken)))]
        if n not in self._alive or kind < 0.45:
            return self._full(n, self._upsert(n))
        if kind < 0.5:
            self._alive.discard(n)
            return self._full(n, self._update(n, op="delete"))
        if kind < 0.75:
            return _message(self._update(n, op="patch", price=self._price()))
        return _message(self._update(n, op="patch", title=self._text(), availability="out_of_stock"))

    def _full(self, n: int, update: ProductUpdate) -> Message:
        if update.op == "upsert":
            self._alive.add(n)
        if before := self._last_full.get(n):
            self._overtaken.append(before)
        message = self._last_full[n] = _message(update)
        return message

    def _upsert(self, n: int) -> ProductUpdate:
        links = self._chance.choice(self._pictures, int(self._chance.integers(3)), replace=False).tolist()
        return self._update(
            n,
            title=self._text(),
            price=self._price(),
            image_link=links[0] if links else None,
            additional_image_link=links[1:],
        )

    def _update(self, n: int, **fields: Any) -> ProductUpdate:
        self._versions[n] += 1
        return ProductUpdate(id=f"{self.prefix}{n}", version=self._versions[n], event_time=_NOW, **fields)

    def _text(self) -> str:
        return " ".join(self._chance.choice(WORDS, 4))

    def _price(self) -> Price:
        return Price(Decimal(int(self._chance.integers(100, 10_000))) / 100, "EUR")

    def _poison(self, number: int) -> Message:
        """Return one of ten kinds of bad messages; no two are equal."""
        id = f"{self.prefix}bad-{number}"
        good = f'"id":"{id}","version":1,"event_time":"2026-05-01T00:00:00Z","title":"t"'
        kinds = (
            f'{{"id":"{id}", ',
            f"{{{good.replace(':1,', ':true,')}}}",
            f'{{"bad":"{id}","version":1,"event_time":"2026-05-01T00:00:00Z","title":"t"}}',
            f'{{{good},"description":"{"x" * 60_000}"}}',
            f'{{{good},"brand":"a\\u0000b"}}',
            f'{{{good},"brand":"\\ud800"}}',
            f'{{{good},"price":{{"amount":"-1","currency":"EUR"}}}}',
            f'{{{good},"price":{{"amount":"1","currency":"XQZ"}}}}',
            f'{{{good},"additional_image_link":{["x"] * 500}}}'.replace("'", '"'),
            f"{{{good.replace(':1,', ':9000000000000000000,')}}}",
        )
        return Message(id.encode(), kinds[number % len(kinds)].encode(), poison=True)


def _message(update: ProductUpdate) -> Message:
    return Message(update.id.encode(), JSON.encode(update))


class EventStory:
    """A seeded stream of clicks, orders and refunds.

    A tenth of the events is sent twice, refunds come before their orders, and 1 % is bad.

    Args:
        prefix: Prefix of the event ids.
        events: Number of draws.
        seed: Random seed.

    Attributes:
        prefix: Prefix of the event ids.
        clicks: Ids of the clicks.
        money: Kind in the ledger and signed amount of orders and refunds, by id.
        poison: Keys of the bad messages.
        messages: Key and value of each message.
    """

    def __init__(self, prefix: str, events: int, seed: int) -> None:
        chance = np.random.default_rng(seed)
        self.prefix = prefix
        self.clicks: set[str] = set()
        self.money: dict[str, tuple[str, int]] = {}
        self.poison: set[bytes] = set()
        self.messages: list[tuple[bytes, bytes]] = []
        for n in range(events):
            kind = chance.random()
            if kind < 0.01:
                self._bad(n)
            elif kind < 0.1 and self.messages:
                self.messages.append(self.messages[int(chance.integers(len(self.messages)))])
            elif kind < 0.2:
                self._order(n, int(chance.integers(200, 10_000)))
            else:
                self.clicks.add(f"{prefix}{n}")
                self._add(Event(**self._common(n, f"{prefix}{n}"), kind="click", product_id="p", surface="user"))

    def _common(self, n: int, event_id: str) -> dict[str, Any]:
        return {"event_id": event_id, "unit_id": f"{self.prefix}u{n % 97}", "event_time": _NOW}

    def _order(self, n: int, cents: int) -> None:
        """Add a refund of half the amount, and then its order."""
        order: dict[str, Any] = {"order_id": f"{self.prefix}{n}", "currency": "EUR"}
        refund_id, order_id = f"{self.prefix}refund-{n}", f"{self.prefix}order-{n}"
        self.money |= {refund_id: ("refunded", -(cents // 2)), order_id: ("placed", cents)}
        self._add(Event(**self._common(n, refund_id), **order, kind="refund", amount_minor=cents // 2))
        self._add(Event(**self._common(n, order_id), **order, kind="order", amount_minor=cents))

    def _add(self, event: Event) -> None:
        self.messages.append((event.unit_id.encode(), JSON.encode(event)))

    def _bad(self, n: int) -> None:
        key = f"{self.prefix}bad-{n}".encode()
        self.poison.add(key)
        self.messages.append((key, _BAD_EVENTS[n % len(_BAD_EVENTS)]))

"""An experiment database to write by hand: refunds, pre-periods, heavy tails, units in several arms."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sqlalchemy import Engine, text

SECOND = 1_000_000
DAY = 86_400 * SECOND
START = 1_780_272_000 * SECOND  # 2026-06-01 00:00 UTC

SCHEMA = """
CREATE TABLE exposure (event_id TEXT PRIMARY KEY, experiment TEXT, config_version INT, arm TEXT, unit_id TEXT,
    event_time BIGINT, ingested_at BIGINT);
CREATE TABLE first_exposure (experiment TEXT, unit_id TEXT, arm TEXT, first_time BIGINT,
    PRIMARY KEY (experiment, unit_id));
CREATE TABLE first_exposure_attribute (experiment TEXT, unit_id TEXT, name TEXT, value TEXT,
    PRIMARY KEY (experiment, unit_id, name));
CREATE TABLE event (event_id TEXT PRIMARY KEY, kind TEXT, unit_id TEXT, event_time BIGINT, product_id TEXT,
    surface TEXT, query TEXT, ingested_at BIGINT);
CREATE TABLE order_event (event_id TEXT PRIMARY KEY, kind TEXT, order_id TEXT, unit_id TEXT, event_time BIGINT,
    product_id TEXT, amount_minor BIGINT, currency TEXT, ingested_at BIGINT);
CREATE INDEX event_unit ON event (unit_id, event_time);
CREATE INDEX order_unit ON order_event (unit_id, event_time);
"""


@dataclass
class Shop:
    """An experiment database to write rows into by hand."""

    engine: Engine
    experiment: str = "ranking"
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    number: int = 0

    def _id(self) -> str:
        self.number += 1
        return f"e{self.number}"

    def _add(self, table: str, **row: Any) -> None:
        self.rows.setdefault(table, []).append(row)

    def unit(self, unit: str, arm: str, time: int, version: int = 1) -> None:
        self._add("first_exposure", experiment=self.experiment, unit_id=unit, arm=arm, first_time=time)
        self._add("exposure", event_id=self._id(), experiment=self.experiment, config_version=version, arm=arm,
                  unit_id=unit, event_time=time)  # fmt: skip

    def attribute(self, unit: str, name: str, value: str) -> None:
        self._add("first_exposure_attribute", experiment=self.experiment, unit_id=unit, name=name, value=value)

    def engagement(self, unit: str, kind: str, time: int, surface: str = "home", delay: int = 0) -> None:
        self._add("event", event_id=self._id(), kind=kind, unit_id=unit, event_time=time, surface=surface,
                  ingested_at=time + delay)  # fmt: skip

    def order(
        self, unit: str, time: int, amount: int, order: str = "", kind: str = "placed", currency: str = "EUR"
    ) -> str:
        name = order or f"o{self.number}"
        self._add("order_event", event_id=self._id(), kind=kind, order_id=name, unit_id=unit, event_time=time,
                  amount_minor=amount, currency=currency, ingested_at=time)  # fmt: skip
        return name

    def save(self) -> None:
        with self.engine.begin() as connection:
            for table, rows in self.rows.items():
                names = list(rows[0])
                marks = ", ".join(f":{name}" for name in names)
                connection.execute(text(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})"), rows)
        self.rows.clear()


def fill(shop: Shop, units: int, seed: int = 0, effect: float = 0.1, days: int = 10) -> None:
    """Add shoppers who each behave alike before and after exposure; the treatment multiplies clicks by 1 + effect."""
    rng = np.random.default_rng(seed)
    for number in range(units):
        arm = ("control", "treatment")[int(rng.integers(2))]
        name, taste = f"u{number}", rng.gamma(2.0, 1.0)
        first = START + int(rng.integers(days * DAY))
        shop.unit(name, arm, first)
        rate = taste * (1 + effect * (arm == "treatment"))
        for kind, mean, since in (("impression", 20, 1), ("click", rate, 1), ("click", taste, -1)):
            for _ in range(rng.poisson(mean)):
                shop.engagement(name, kind, first + since * int(rng.integers(1, 5 * DAY)))
        for since, orders in ((1, rng.poisson(0.1 * rate)), (-1, rng.poisson(0.1 * taste))):
            for _ in range(orders):
                time = first + since * int(rng.integers(1, 5 * DAY))
                amount = int(np.exp(rng.normal(8, 1)))
                order = shop.order(name, time, amount)
                if rng.random() < 0.2:
                    shop.order(name, time + 1, -amount, order, "refunded")
    shop.save()

"""An installation on real servers, and consumers for it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from sagelift.services import CATALOG_GROUP, Services
from sagelift.settings import load_settings
from sagelift.stack.kafka import KafkaBroker
from sagelift.stack.triton import TritonServer
from sagelift.workers import catalog_worker
from streaming.contracts import ERROR_HEADERS, Price, ProductUpdate
from streaming.kafka.connection import TopicPartition
from streaming.kafka.lag import LagMeter
from streaming.kafka.producers import CatalogPublisher
from streaming.kafka.topics import CATALOG_UPDATES, dead_letter_topic
from tests.waiting import wait_until

NOW = datetime.now(UTC).replace(microsecond=0)
COLOURS = {"red": (220, 30, 30), "blue": (30, 30, 220), "green": (30, 180, 60)}


class Shop:
    """An installation: services of this process, and settings to start consumers with."""

    def __init__(self, state: Path, kafka: KafkaBroker, triton: TritonServer, models: Path) -> None:
        self.environment = {
            "SAGELIFT_STATE_DIR": str(state),
            "SAGELIFT_KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap,
            "SAGELIFT_TRITON__URL": triton.grpc,
            "SAGELIFT_TRITON__MODEL_REPOSITORY": str(models),
            "SAGELIFT_IMAGES__FOLDERS": str(state.parent),
            "OMP_NUM_THREADS": "1",
        }
        self.settings = load_settings(
            state_dir=state,
            kafka={"bootstrap_servers": kafka.bootstrap},
            triton={"url": triton.grpc, "model_repository": models},
            images={"folders": [state.parent]},
        )
        self.kafka, self.triton = kafka, triton
        self.services = Services(self.settings)
        self.services.open_live_embedder()

    def publish(self, *updates: ProductUpdate) -> None:
        with CatalogPublisher(self.services.kafka) as publisher:
            publisher.send_all(updates)

    def lag(self, group: str = CATALOG_GROUP, topic: str = CATALOG_UPDATES) -> int:
        with LagMeter(self.services.kafka, group, topic) as meter:
            return meter.lag()

    def caught_up(self, group: str = CATALOG_GROUP, topic: str = CATALOG_UPDATES, timeout_s: float = 60) -> None:
        with LagMeter(self.services.kafka, group, topic) as meter:
            wait_until(lambda: meter.lag() == 0, f"{group} to read all of {topic}", timeout_s=timeout_s)

    def state(self, prefix: str) -> dict[str, Any]:
        """Features and embeddings of the products with this prefix, by the rest of their ids."""
        features = [p for page in self.services.features.scan_features() for p in page if p.id.startswith(prefix)]
        embeddings = self.services.features.read_embeddings("1", [p.id for p in features])
        return {
            p.id.removeprefix(prefix): (
                (p.version, p.text, p.image_hashes, p.amount_minor, p.currency, p.availability),
                (embeddings[p.id].content_hash, np.round(embeddings[p.id].vector, 3).tobytes()),
            )
            for p in features
        }

    def state_ids(self, prefix: str) -> list[str]:
        return [id for id in self.services.features.product_ids() if id.startswith(prefix)]

    def dead_letters(self, topic: str, stage: str) -> list[Any]:
        consumer = self.services.kafka.consumer()
        try:
            tp = TopicPartition(dead_letter_topic(topic), 0)
            consumer.assign([tp])
            consumer.seek_to_beginning(tp)
            end, records = consumer.end_offsets([tp])[tp], []
            while consumer.position(tp) < end:
                records += consumer.poll(500).get(tp, [])
        finally:
            consumer.close()
        return [r for r in records if dict(r.headers)[ERROR_HEADERS + "stage"] == stage.encode()]


@contextmanager
def consuming(shop: Shop, worker: Callable[..., None] = catalog_worker) -> Iterator[None]:
    """A consumer in this process; it must end in time and without an error."""
    stop, failed = threading.Event(), []

    def run() -> None:
        try:
            worker(shop.settings, stop)
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)
        if failed:  # the cause of any other failure
            raise failed[0]
    assert not thread.is_alive()


@contextmanager
def process(shop: Shop, worker: str) -> Iterator[subprocess.Popen[bytes]]:
    """A consumer as `sagelift stream` starts it; killed at the end if it still runs."""
    command = [sys.executable, "-m", "sagelift", "stream", worker]
    with open(shop.settings.state / f"{worker}.log", "ab") as log:
        started = subprocess.Popen(command, env={**os.environ, **shop.environment}, stdout=log, stderr=log)
    try:
        yield started
    finally:
        started.kill()
        started.wait(10)


def upsert(id: str, version: int, title: str, *links: str, cents: int = 1000) -> ProductUpdate:
    return ProductUpdate(
        id=id,
        version=version,
        event_time=NOW,
        title=title,
        image_link=links[0] if links else None,
        additional_image_link=list(links[1:]),
        price=Price(Decimal(cents) / 100, "EUR"),
    )


def patch(id: str, version: int, **fields: Any) -> ProductUpdate:
    return ProductUpdate(id=id, version=version, event_time=NOW, op="patch", **fields)


def delete(id: str, version: int) -> ProductUpdate:
    return ProductUpdate(id=id, version=version, event_time=NOW, op="delete")

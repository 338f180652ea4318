"""The installation of `benchmarks.stream`: servers, consumer processes, and the bare pipeline as the floor."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from inference.arrays import Float32Array

# Like Triton's model (inference/triton_models): waiting threads must not spin on cores that others need.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import psutil
import torch

from benchmarks._stream_catalogue import PRODUCTS, Catalogue, Message
from benchmarks.embed import as_served
from benchmarks.harness import Say
from benchmarks.tokenize import real_products
from feature_repo.rows import ProductFeatures
from inference.inputs import TEXT_FIELDS, VECTOR_DIM
from inference.model import ItemSage, ItemSageConfig
from inference.releases.export import export_release, export_visual_encoder
from inference.releases.repository import set_live
from inference.tokenizer import Tokenizer
from inference.triton.batching import group_by_size
from inference.visual import VISUAL_VERSION
from sagelift.services import CATALOG_GROUP, Services
from sagelift.settings import load_settings
from sagelift.stack.components import fetch_all
from sagelift.stack.kafka import KafkaBroker
from sagelift.stack.triton import TritonServer
from streaming.contracts import ProductUpdate, check_update
from streaming.kafka.codec import JSON
from streaming.kafka.connection import KafkaError
from streaming.kafka.lag import LagMeter
from streaming.kafka.topic_admin import ensure_topics
from streaming.kafka.topics import CATALOG_UPDATES

BATCH = 256  # of the bare pipeline: the best size for the model


class Rig:
    """Broker, Triton, consumer processes and the bare pipeline. A context manager.

    Args:
        folder: Folder of the servers and the store.
        say: Shows progress.

    Attributes:
        catalogue: The products and their updates.
        services: Services on the servers.
        broker: The broker.
        triton: The Triton server.
        consumers: The consumer processes, one per core.
        tokenizer: Tokenizer with vocabularies of the paper's size.
        model: The model of the bare pipeline, as Triton runs it.
        images: Image vectors of each product.
    """

    def __init__(self, folder: Path, say: Say) -> None:
        self.folder, self.say = folder, say
        self.catalogue = Catalogue(real_products(say))
        self._open = ExitStack()

    def __enter__(self) -> Rig:
        try:
            self._start()
        except BaseException:
            self._open.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def _start(self) -> None:
        cache = load_settings().cache
        fetch_all(cache, self.say)
        models, state = self.folder / "models", self.folder / "state"
        self.tokenizer = _full_vocabulary(self.catalogue.texts)
        torch.manual_seed(0)
        model = ItemSage(ItemSageConfig(self.tokenizer.size)).eval()
        self.say(f"ItemSage with {sum(p.numel() for p in model.parameters()):,} parameters")
        export_release(models, model, self.tokenizer)
        set_live(models, "1")
        export_visual_encoder(models)
        self.model = as_served(model, self.say)
        self.broker = self._open.enter_context(KafkaBroker(self.folder / "kafka", cache))
        self.triton = self._open.enter_context(TritonServer(self.folder / "triton", cache, models))
        self.services = self._open.enter_context(
            Services(
                load_settings(
                    state_dir=state,
                    kafka={"bootstrap_servers": self.broker.bootstrap},
                    triton={"url": self.triton.grpc, "model_repository": models},
                )
            )
        )
        ensure_topics(self.services.kafka)
        self._seed()
        self._meter = LagMeter(self.services.kafka, CATALOG_GROUP, CATALOG_UPDATES)
        self._open.callback(self._meter.close)
        self.consumers = [
            self._open.enter_context(consumer_process(self.services, self.folder / f"consumer-{n}.log"))
            for n in range(len(os.sched_getaffinity(0)))
        ]
        self._wait_until_shared()
        self._open.enter_context(_floor_database(self.folder / "floor.db"))

    def _seed(self) -> None:
        """Write the products with their image vectors into the feature store."""
        self.say(f"{PRODUCTS} products with 1 to 5 images each into the feature store")
        rng = np.random.default_rng(1)
        self.images = [_unit(rng.normal(size=(len(links), VECTOR_DIM))) for links in self.catalogue.links]
        now = datetime.now(UTC)
        products = [
            ProductFeatures(
                id=f"product-{n}",
                version=1,
                event_time=now,
                image_urls=links,
                image_hashes=[f"{n * 8 + k:064x}" for k in range(len(links))],
                image_vectors=self.images[n],
                visual_version=VISUAL_VERSION,
            )
            for n, links in enumerate(self.catalogue.links)
        ]
        for start in range(0, PRODUCTS, 1024):
            self.services.features.write_features(products[start : start + 1024])

    def publish(self, messages: Sequence[Message]) -> None:
        """Send messages and wait until the broker has them."""
        producer = self.services.producer()
        for key, value in messages:
            producer.send(CATALOG_UPDATES, key=key, value=value)
        producer.flush()

    def drain(self, messages: Sequence[Message]) -> float:
        """Return the seconds that the consumers need for messages that are on the topic when they start."""
        for consumer in self.consumers:
            consumer.send_signal(signal.SIGSTOP)
        self.publish(messages)
        started = time.perf_counter()
        for consumer in self.consumers:
            consumer.send_signal(signal.SIGCONT)
        self.wait_until_read()
        return time.perf_counter() - started

    def wait_until_read(self) -> None:
        """Wait until all messages are committed."""
        while self._meter.lag():
            self._check()
            time.sleep(0.02)

    def _wait_until_shared(self) -> None:
        """Wait until every consumer has partitions."""
        with closing(self.services.kafka.admin()) as admin:
            while True:
                with suppress(KafkaError):  # the group does not exist yet
                    group = admin.describe_groups([CATALOG_GROUP])[CATALOG_GROUP]
                    if group["group_state"] == "Stable" and len(group["members"]) == len(self.consumers):
                        return
                self._check()
                time.sleep(0.2)

    def _check(self) -> None:
        for n, consumer in enumerate(self.consumers):
            if consumer.poll() is not None:
                log = (self.folder / f"consumer-{n}.log").read_text()
                raise RuntimeError(f"consumer {n} ended: {log[-2000:]}")

    def committed(self) -> int:
        """Return the number of committed messages."""
        return self._meter.end() - self._meter.lag()

    def cpu(self) -> float:
        """Return the CPU seconds of consumers, Triton and broker so far."""
        spent = 0.0
        for pid in (*(consumer.pid for consumer in self.consumers), self.triton.pid, self.broker.pid):
            process = psutil.Process(pid)
            for one in (process, *process.children(recursive=True)):
                times = one.cpu_times()
                spent += times.user + times.system
        return spent

    def rss_mb(self) -> float:
        """Return the resident memory of all consumers in MiB."""
        resident: int = sum(psutil.Process(consumer.pid).memory_info().rss for consumer in self.consumers)
        return resident / 2**20

    def floor(self, messages: Sequence[Message]) -> float:
        """Return the seconds that the bare pipeline needs for these messages, on all cores."""
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        started = time.perf_counter()
        with torch.inference_mode(), sqlite3.connect(self.folder / "floor.db") as database:
            for start in range(0, len(messages), BATCH):
                some = messages[start : start + BATCH]
                updates = [_decoded(value) for _, value in some]
                vectors = self._embed(updates)
                database.executemany(
                    "insert or replace into product values (?, ?, ?)",
                    [(key, value, vector.tobytes()) for (key, value), vector in zip(some, vectors, strict=True)],
                )
                database.commit()
        return time.perf_counter() - started

    def _embed(self, updates: Sequence[ProductUpdate]) -> Float32Array:
        ids, lengths = self.tokenizer.encode([_text(update) for update in updates])
        images = [self.images[int(update.id.removeprefix("product-"))] for update in updates]
        counts = np.array([len(vectors) for vectors in images], np.int32)
        out = np.empty((len(updates), VECTOR_DIM), np.float32)
        for group in group_by_size(counts, BATCH):
            stacked = np.zeros((len(group), int(counts[group].max()), VECTOR_DIM), np.float32)
            for place, row in enumerate(group):
                stacked[place, : counts[row]] = images[row]
            width = int(lengths[group].sum(1).max())
            inputs = (stacked, counts[group], ids[group][:, :width], lengths[group])
            out[group] = self.model(*map(torch.from_numpy, inputs)).numpy()
        return out


@contextmanager
def consumer_process(services: Services, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run `sagelift stream catalog` on these services; kill it at the end."""
    settings = services.settings
    environment = {
        "SAGELIFT_STATE_DIR": str(settings.state),
        "SAGELIFT_KAFKA__BOOTSTRAP_SERVERS": settings.kafka.bootstrap_servers,
        "SAGELIFT_TRITON__URL": settings.triton.url,
        "SAGELIFT_TRITON__MODEL_REPOSITORY": str(settings.model_repository),
        "OMP_NUM_THREADS": "1",  # as the local stack starts it
    }
    command = [sys.executable, "-m", "sagelift", "stream", "catalog"]
    with open(log, "ab") as output:
        process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.kill()
        process.wait(30)


@contextmanager
def _floor_database(path: Path) -> Iterator[None]:
    """Make the bare pipeline's table, as durable as the feature store's."""
    with sqlite3.connect(path) as database:
        database.execute("pragma journal_mode=wal")
        database.execute("create table product (id blob primary key, message blob, vector blob)")
    yield


def _full_vocabulary(texts: Sequence[Mapping[str, str]]) -> Tokenizer:
    """Return vocabularies of the paper's size: the tokens of the texts at random places among others."""
    content = Tokenizer.fit(texts).vocabulary
    rng = np.random.default_rng(2)

    def filled(tokens: Sequence[str], size: int, other: Callable[[int], str]) -> list[str]:
        everything = [*tokens, *map(other, range(size - len(tokens)))]
        return [everything[i] for i in rng.permutation(size)]

    return Tokenizer(
        filled(content.unigrams, 200_000, lambda n: f"unigram{n}"),
        filled(content.bigrams, 1_000_000, lambda n: f"bi#gram{n}"),
        filled(content.trigrams, 64_000, lambda n: "".join(chr(0x430 + (n >> shift & 63)) for shift in (0, 6, 12))),
    )


def _decoded(value: bytes) -> ProductUpdate:
    update = JSON.decode(ProductUpdate, value)
    check_update(update, now=datetime.now(UTC))
    return update


def _text(update: ProductUpdate) -> dict[str, str]:
    """Return the text fields of the message."""
    fields = {}
    for name in TEXT_FIELDS:
        value = getattr(update, name, None)
        if value:
            fields[name] = " > ".join(value) if isinstance(value, list) else value
    return fields


def _unit(vectors: np.ndarray[Any, Any]) -> Float32Array:
    unit: Float32Array = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit

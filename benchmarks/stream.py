"""The catalogue consumer from Kafka to retrievable: its rate against a bare pipeline, price updates, freshness, memory.

A real broker, a real Triton with ItemSage at its full size (random weights), and consumers as processes of their own,
one per core, as `sagelift stream catalog` starts them; all on this machine's cores. Texts are those of real products
(../shared/data where it is there), each update another mix of them, so that every full update must be embedded anew. A
full update states the product's category and price as they are: what it is filtered by changes with the price updates
alone. Updates name 1 to 5 images that the store knows already, as those of a catalogue that changes do: they cost a
look-up, no fetch. Within a pass over the catalogue each product has one update.

`full_update_rate`: updates/s from the first to the last commit, against one process that decodes the same messages,
tokenises, runs the same network on all cores and writes message and vector with one SQLite transaction per batch.
`full_update_cpu`: the same in CPU seconds of all processes, which neighbours on the machine disturb less.
`offer_update_rate`: price-only updates/s over full ones. `freshness_*`: from an update's arrival in Kafka to its vector
being in an index that follows, at a quarter of the full rate. `rss_growth`: slope of the consumers' memory over the
updates of a mixed stream (one in five is full) after its first third; `--updates` says how long that stream is.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from inference.arrays import Float32Array

# As Triton's model does (inference/triton_models): threads that wait must not spin on cores that others need.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import psutil
import torch

from benchmarks.embed import as_served
from benchmarks.harness import Row, compared, figure
from benchmarks.tokenize import real_products
from feature_repo.rows import ProductFeatures
from inference.inputs import TEXT_FIELDS, VECTOR_DIM
from inference.model import ItemSage, ItemSageConfig
from inference.releases.export import export_release, export_visual_encoder
from inference.releases.repository import set_live
from inference.retrieval import RetrievalIndex
from inference.tokenizer import Tokenizer
from inference.triton.batching import group_by_size
from inference.visual import VISUAL_VERSION
from sagelift.services import CATALOG_GROUP, Services
from sagelift.settings import load_settings
from sagelift.stack.components import fetch_all
from sagelift.stack.kafka import KafkaBroker
from sagelift.stack.triton import TritonServer
from streaming.contracts import Price, ProductUpdate, check_update
from streaming.kafka.codec import JSON
from streaming.kafka.connection import KafkaError
from streaming.kafka.lag import LagMeter
from streaming.kafka.topic_admin import ensure_topics
from streaming.kafka.topics import CATALOG_UPDATES
from streaming.vectors.follower import IndexFollower

PRODUCTS = 16_384
BATCH = 256  # of the bare pipeline: the model's own best
RUNS = 5
OFFER_PASSES = 6  # about as long as one of full updates: filling and draining the stages weighs as much on both
FRESHNESS_S = 15.0
UPDATES = 60_000

Message = tuple[bytes, bytes]  # key, value


def rows(say: Callable[[str], None], updates: int = UPDATES) -> list[Row]:
    """All figures; `updates` is the length of the stream that memory is measured over."""
    with tempfile.TemporaryDirectory(prefix="sagelift-stream-") as folder, ExitStack() as stack:
        rig = stack.enter_context(Rig(Path(folder), say))
        say("first pass over the catalogue, uncounted")
        rig.drain(rig.catalogue.full(1))
        rate = PRODUCTS / rig.drain(rig.catalogue.full(1))
        rig.drain(rig.catalogue.offers(1))
        fresh = _freshness(rig, rate / 4, say)
        return [*_rates(rig, say), *fresh, _memory(rig, updates, say)]


def _rates(rig: Rig, say: Callable[[str], None]) -> list[Row]:
    taken: dict[str, list[float]] = {name: [] for name in ("floor", "full", "offers", "floor_cpu", "full_cpu")}
    for run in range(RUNS):
        full, offers = rig.catalogue.full(1), rig.catalogue.offers(OFFER_PASSES)
        cpu = time.process_time()
        taken["floor"].append(len(full) / rig.floor(full))
        taken["floor_cpu"].append(1e6 * (time.process_time() - cpu) / len(full))
        cpu = rig.cpu()
        taken["full"].append(len(full) / rig.drain(full))
        taken["full_cpu"].append(1e6 * (rig.cpu() - cpu) / len(full))
        taken["offers"].append(len(offers) / rig.drain(offers))
        say(f"run {run + 1} of {RUNS}: " + ", ".join(f"{name} {found[-1]:.0f}" for name, found in taken.items()))
    return [
        compared("full_update_rate", "1/s", taken["full"], "in_process_pipeline", taken["floor"], at_least=0.6),
        compared("full_update_cpu", "us", taken["full_cpu"], "in_process_pipeline", taken["floor_cpu"]),
        compared("offer_update_rate", "1/s", taken["offers"], "full_update_rate", taken["full"], at_least=5.0),
    ]


def _freshness(rig: Rig, rate: float, say: Callable[[str], None]) -> list[Row]:
    say(f"freshness at {rate:.0f} updates/s for {FRESHNESS_S:.0f} s")
    seen: list[float] = []
    index = RetrievalIndex("1")
    with IndexFollower(rig.services.kafka, index, lambda _, milliseconds: seen.append(milliseconds)) as follower:
        follower.catch_up(600)
        seen.clear()
        producer = rig.services.producer()
        started, sent = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - started) < FRESHNESS_S:
            for key, value in rig.catalogue.some(int(rate * elapsed) - sent):
                producer.send(CATALOG_UPDATES, key=key, value=value)
                sent += 1
            time.sleep(0.005)
        producer.flush()
        rig.wait_until_read()
        follower.catch_up(60)
    say(f"{sent} updates sent, {len(seen)} vectors applied")
    p50, p99 = np.percentile(seen, [50, 99]).tolist()
    return [figure("freshness_p50", "ms", p50), figure("freshness_p99", "ms", p99, at_most=1_000.0)]


def _memory(rig: Rig, updates: int, say: Callable[[str], None]) -> Row:
    say(f"memory over {updates} updates")
    samples: list[tuple[float, float]] = []
    before, sent = rig.committed(), 0
    while sent < updates:
        # In parts, so that what waits on the topic stays small beside what is in memory anyway.
        part = [*rig.catalogue.full_part(PRODUCTS // 4), *rig.catalogue.offers(1)]
        rig.publish(part)
        sent += len(part)
        while (behind := sent - (rig.committed() - before)) > PRODUCTS:
            samples.append(((sent - behind) / 1e6, rig.rss_mb()))
            time.sleep(0.3)
    rig.wait_until_read()
    samples.append((sent / 1e6, rig.rss_mb()))
    late = np.array([sample for sample in samples if sample[0] > sent / 3e6])
    slope = float(np.polyfit(late[:, 0], late[:, 1], 1)[0])
    say(f"{sent} updates, {len(late)} samples, {late[0, 1]:.0f} to {late[-1, 1]:.0f} MB")
    return figure("rss_growth", "MB per million updates", slope)


class Catalogue:
    """Products with real texts, and the messages that change them."""

    def __init__(self, texts: Sequence[Mapping[str, str]]) -> None:
        self.texts, self._chance = texts, np.random.default_rng(0)
        self.links = [
            [f"https://images.example/{n}/{k}.jpg" for k in range(1 + n % 5)] for n in range(PRODUCTS)
        ]  # 1 to 5, 3 on average
        self._prices = [Price(Decimal("12.30"), "EUR")] * PRODUCTS
        self._version = 1
        self._next = 0

    def full(self, passes: int) -> list[Message]:
        """Every product anew, with another text, `passes` times over."""
        return [self._upsert(n) for _ in self._versions(passes) for n in range(PRODUCTS)]

    def full_part(self, number: int) -> list[Message]:
        """The next products anew."""
        self._version += 1
        return list(self.some(number))

    def some(self, number: int) -> Iterator[Message]:
        """The next products anew, round and round."""
        for _ in range(number):
            self._next = (self._next + 1) % PRODUCTS
            if self._next == 0:
                self._version += 1
            yield self._upsert(self._next)

    def offers(self, passes: int) -> list[Message]:
        """Another price for every product, `passes` times over."""
        return [self._price(n) for _ in self._versions(passes) for n in range(PRODUCTS)]

    def _versions(self, passes: int) -> Iterator[int]:
        for _ in range(passes):
            self._version += 1
            yield self._version

    def _upsert(self, n: int) -> Message:
        title, description = (self.texts[i] for i in self._chance.integers(0, len(self.texts), 2).tolist())
        return self._message(
            n,
            title=title["title"],
            description=description.get("description", ""),
            link=f"https://shop.example/products/{n}",
            image_link=self.links[n][0],
            additional_image_link=self.links[n][1:],
            product_type=[self.texts[n % len(self.texts)].get("product_type", "")],
            brand=description.get("brand", "Acme"),
            price=self._prices[n],
            availability="in_stock",
        )

    def _price(self, n: int) -> Message:
        self._prices[n] = Price(Decimal(100 + self._version * 7 % 900) / 100, "EUR")
        return self._message(n, op="patch", price=self._prices[n])

    def _message(self, n: int, **fields: Any) -> Message:
        update = ProductUpdate(id=f"product-{n}", version=self._version, event_time=datetime.now(UTC), **fields)
        return update.id.encode(), JSON.encode(update)


class Rig:
    """Broker, Triton, the consumers' processes and the bare pipeline. A context manager."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
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
        """The catalogue as the store knows it: features with image vectors."""
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
        producer = self.services.producer()
        for key, value in messages:
            producer.send(CATALOG_UPDATES, key=key, value=value)
        producer.flush()

    def drain(self, messages: Sequence[Message]) -> float:
        """Seconds that the consumer takes for messages that lie ready when it begins."""
        for consumer in self.consumers:
            consumer.send_signal(signal.SIGSTOP)
        self.publish(messages)
        started = time.perf_counter()
        for consumer in self.consumers:
            consumer.send_signal(signal.SIGCONT)
        self.wait_until_read()
        return time.perf_counter() - started

    def wait_until_read(self) -> None:
        while self._meter.lag():
            self._check()
            time.sleep(0.02)

    def _wait_until_shared(self) -> None:
        """Until every consumer has partitions."""
        with closing(self.services.kafka.admin()) as admin:
            while True:
                with suppress(KafkaError):  # there is no such group yet
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
        """Messages that the consumer has done with."""
        return self._meter.end() - self._meter.lag()

    def cpu(self) -> float:
        """CPU seconds of consumers, Triton and broker so far."""
        spent = 0.0
        for pid in (*(consumer.pid for consumer in self.consumers), self.triton.pid, self.broker.pid):
            process = psutil.Process(pid)
            for one in (process, *process.children(recursive=True)):
                times = one.cpu_times()
                spent += times.user + times.system
        return spent

    def rss_mb(self) -> float:
        resident: int = sum(psutil.Process(consumer.pid).memory_info().rss for consumer in self.consumers)
        return resident / 2**20

    def floor(self, messages: Sequence[Message]) -> float:
        """Seconds of the bare pipeline for the same messages, on all cores."""
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
    """`sagelift stream catalog` on these services; killed at the end if it is still there."""
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
    """The bare pipeline's table, as durable as the feature store's."""
    with sqlite3.connect(path) as database:
        database.execute("pragma journal_mode=wal")
        database.execute("create table product (id blob primary key, message blob, vector blob)")
    yield


def _full_vocabulary(texts: Sequence[Mapping[str, str]]) -> Tokenizer:
    """The texts' own tokens, strewn among as many others as the paper's vocabularies have."""
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
    """The text fields as they stand in the message, nothing more."""
    found = {}
    for name in TEXT_FIELDS:
        value = getattr(update, name, None)
        if value:
            found[name] = " > ".join(value) if isinstance(value, list) else value
    return found


def _unit(vectors: np.ndarray[Any, Any]) -> Float32Array:
    unit: Float32Array = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit

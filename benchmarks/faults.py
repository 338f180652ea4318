"""The catalogue consumer under kills, outages and bad messages: what differs from a run that nothing disturbed.

A seeded stream of upserts, patches, deletes, duplicates, old versions and 1 % poison of ten kinds goes through real
consumers, broker and Triton, while consumers are killed, join and leave, Triton's model process, Triton and the broker
are killed, and the feature store is locked. Then every product's features, embedding and last record on
`product.embeddings` are held against those of the same stream put through one pipeline in one process, in order.

`lost`: products whose features, embedding or vector on the topic are missing (or there, though deleted). `stale`: of an
older version. `wrong`: of other content. `poison_missing`: bad messages that are not among the dead letters.
`poison_copies`: the most dead letters of one bad message; a batch that was under way when a consumer died is read
again, so there may be one for each death. `--updates` says how long the stream is.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
from PIL import Image

from benchmarks.harness import Row, figure
from sagelift.services import Services
from sagelift.settings import load_settings
from sagelift.stack.components import fetch_all
from sagelift.stack.kafka import KafkaBroker
from sagelift.stack.triton import TritonServer
from sagelift.workers import CATALOG_GROUP
from streaming.catalog import CatalogPipeline
from streaming.contracts import Price, ProductUpdate, ProductVector, decode_vector, encode
from streaming.errors import BrokerError
from streaming.image_vectors import CachedImageVectors
from streaming.images import ImageFetcher
from streaming.kafka import KafkaError, TopicPartition
from streaming.lag import LagMeter
from streaming.topics import CATALOG_UPDATES, PRODUCT_EMBEDDINGS, dead_letter_topic, ensure_topics

UPDATES = 6_000
_WORDS = "red blue green oak pine table chair lamp wool coat summer dress".split()
_NOW = datetime.now(UTC).replace(microsecond=0)

Say = Callable[[str], None]


class Message(NamedTuple):
    """A record as the pipeline takes it; `poison` is never applied."""

    key: bytes
    value: bytes
    poison: bool = False
    topic: str = CATALOG_UPDATES
    partition: int = 0
    offset: int = 0
    timestamp: int = 0
    headers: Sequence[tuple[str, bytes]] = ()


class Verdict(NamedTuple):
    """What differs from an undisturbed run, and what became of the bad messages."""

    products: int
    lost: int
    stale: int
    wrong: int
    poison: int
    poison_missing: int
    poison_copies: int


def rows(say: Say, updates: int = UPDATES) -> list[Row]:
    """All figures for a stream of `updates` messages, a tenth as many products, on servers of its own."""
    with tempfile.TemporaryDirectory(prefix="sagelift-faults-") as folder, ExitStack() as stack:
        site = stack.enter_context(_own_site(Path(folder), say))
        faults = FAULTS * max(1, updates // 10_000)
        found = disturbed(site, Story("f-", updates, site.pictures, seed=7), faults, say)
    say(f"{found.products} products, {found.poison} bad messages")
    return [
        *(figure(name, "products", float(getattr(found, name)), at_most=0.0) for name in ("lost", "stale", "wrong")),
        figure("poison_missing", "messages", float(found.poison_missing), at_most=0.0),
        figure("poison_copies", "dead letters of one message", float(found.poison_copies)),
    ]


class Site:
    """An installation whose parts can be hurt."""

    def __init__(self, services: Services, broker: KafkaBroker, triton: TritonServer, folder: Path) -> None:
        self.services, self.broker, self.triton, self.folder = services, broker, triton, folder
        self.pictures = _pictures(folder)
        settings = services.settings
        self.environment = {
            "SAGELIFT_STATE_DIR": str(settings.state),
            "SAGELIFT_KAFKA__BOOTSTRAP_SERVERS": broker.bootstrap,
            "SAGELIFT_TRITON__URL": triton.grpc,
            "SAGELIFT_TRITON__MODEL_REPOSITORY": str(settings.model_repository),
            "SAGELIFT_IMAGES__FOLDERS": str(folder),
            "OMP_NUM_THREADS": "1",
        }

    def consumer(self) -> subprocess.Popen[bytes]:
        """`sagelift stream catalog`, in a process of its own."""
        command = [sys.executable, "-m", "sagelift", "stream", "catalog"]
        with open(self.folder / "consumer.log", "ab") as log:
            return subprocess.Popen(command, env={**os.environ, **self.environment}, stdout=log, stderr=log)


class Story:
    """A seeded stream of messages whose outcome does not depend on how they are cut into batches.

    Late ones are full statements that a newer full statement has overtaken; a patch that came late would be applied or
    not, depending on what shares its batch.
    """

    def __init__(self, prefix: str, updates: int, pictures: Sequence[str], seed: int, poison: float = 0.01) -> None:
        self.prefix, self._pictures = prefix, pictures
        self._chance = np.random.default_rng(seed)
        self._products = max(10, updates // 10)
        self._versions: Counter[int] = Counter()
        self._alive: set[int] = set()
        self._overtaken: list[Message] = []  # full statements that are not the newest
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
        return " ".join(self._chance.choice(_WORDS, 4))

    def _price(self) -> Price:
        return Price(Decimal(int(self._chance.integers(100, 10_000))) / 100, "EUR")

    def _poison(self, number: int) -> Message:
        """One of ten kinds of message that cannot be used; no two are equal."""
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


def disturbed(site: Site, story: Story, faults: Sequence[Fault], say: Say) -> Verdict:
    """Put the story through consumers, a part before each of the faults, and judge what is left."""
    ensure_topics(site.services.kafka)
    parts = np.array_split(np.arange(len(story.messages)), len(faults))
    with _Consumers(site) as consumers:
        for fault, part in zip(faults, parts, strict=True):
            say(f"{len(part)} messages, then: {fault.__doc__}")
            middle = consumers.left() + len(part) * 2 // 3
            _publish(site.services, [story.messages[i] for i in part])
            consumers.wait_until_left(middle)  # there is work under way, most of the time
            fault(site, consumers)
        say("waiting for the consumer to finish")
        consumers.wait_until_left(0)
        consumers.end()
    return judged(site, story)


# Faults. Each takes the site and its consumers and leaves them as they are to go on.


def kill_consumer(site: Site, consumers: _Consumers) -> None:
    """the consumer is killed, and started again"""
    consumers.kill()
    consumers.start()


def join_and_leave(site: Site, consumers: _Consumers) -> None:
    """a second consumer joins, and the first leaves"""
    consumers.start()
    consumers.wait_for_members(2)
    consumers.leave()


def kill_model(site: Site, consumers: _Consumers) -> None:
    """Triton's model processes are killed"""
    assert site.triton.pid is not None
    for child in psutil.Process(site.triton.pid).children(recursive=True):
        child.kill()


def kill_triton(site: Site, consumers: _Consumers) -> None:
    """Triton is killed, and started again"""
    site.triton.kill()
    site.triton.restart()


def kill_broker(site: Site, consumers: _Consumers) -> None:
    """the broker is killed, and started again"""
    consumers.hang_up()
    site.broker.kill()
    site.broker.restart()


def lock_store(site: Site, consumers: _Consumers) -> None:
    """another process locks the feature store for two seconds, and the consumer is killed meanwhile"""
    (path,) = (site.services.settings.state / "feast").glob("**/online*.db")
    with sqlite3.connect(path, timeout=30, isolation_level=None) as database:
        database.execute("begin immediate")
        consumers.kill()
        consumers.start()
        threading.Event().wait(2)
        database.execute("rollback")


class _Consumers:
    """The consumers' processes, the oldest first. A context manager that leaves none running."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._running: list[subprocess.Popen[bytes]] = []
        self._meter: LagMeter | None = None

    def __enter__(self) -> _Consumers:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._running:
            process.kill()
            process.wait(30)
        self.hang_up()

    def start(self) -> None:
        self._running.append(self._site.consumer())

    def kill(self) -> None:
        process = self._running.pop(0)
        process.kill()
        process.wait(30)

    def leave(self) -> None:
        """The oldest ends as a supervisor ends it; it must, in time and well."""
        process = self._running.pop(0)
        process.send_signal(signal.SIGTERM)
        if code := process.wait(30):
            raise RuntimeError(f"a consumer that was asked to stop ended with {code}")

    def end(self) -> None:
        while self._running:
            self.leave()

    def left(self) -> int:
        """Messages not committed yet; many while the broker does not say."""
        try:
            self._meter = self._meter or LagMeter(self._site.services.kafka, CATALOG_GROUP, CATALOG_UPDATES)
            return self._meter.lag()
        except (KafkaError, BrokerError):
            return 1 << 30

    def hang_up(self) -> None:
        """Close our own connection to the broker: kafka-python leaks a socket for each time that it calls in vain."""
        if self._meter is not None:
            self._meter.close()
            self._meter = None

    def wait(self, condition: Callable[[], bool], timeout_s: float = 300) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            for process in self._running:
                if process.poll() is not None:
                    log = (self._site.folder / "consumer.log").read_text(errors="replace")
                    raise RuntimeError(f"a consumer ended by itself with {process.returncode}: {log[-2000:]}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"gave up after {timeout_s:.0f} s with {self.left()} messages left")
            time.sleep(0.05)

    def wait_until_left(self, messages: int) -> None:
        self.wait(lambda: self.left() <= messages)

    def wait_for_members(self, number: int) -> None:
        admin = self._site.services.kafka.admin()
        try:
            self.wait(lambda: _members(admin) == number)
        finally:
            admin.close()


def _members(admin: Any) -> int:
    """Members of the group that have partitions."""
    try:
        group = admin.describe_groups([CATALOG_GROUP])[CATALOG_GROUP]
    except KafkaError:
        return 0
    return len(group["members"])


def _publish(services: Services, messages: Sequence[Message]) -> None:
    producer = services.kafka.producer()
    try:
        sent = [producer.send(CATALOG_UPDATES, key=m.key, value=m.value) for m in messages]
        producer.flush(60)
        for future in sent:
            future.get(60)
    finally:
        producer.close(5)


# Judgement.


class _State(NamedTuple):
    """A product as one run left it: its version, its features, its embedding's content hash and vector."""

    version: int
    features: tuple[Any, ...]
    content_hash: str
    vector: np.ndarray[Any, Any]


def judged(site: Site, story: Story) -> Verdict:
    """What differs now from the same stream without disturbance."""
    expected = _undisturbed(site, story)
    found = _states(site.services, story.prefix)
    topic = _last_vectors(site.services, story.prefix)
    lost = stale = wrong = 0
    for id in expected.keys() | found.keys() | topic.keys():
        if not (id in expected and id in found and id in topic):
            lost += 1
        elif found[id].version != expected[id].version:
            stale += 1
        elif not _same(found[id], expected[id]) or topic[id].content_hash != expected[id].content_hash:
            wrong += 1
    letters = Counter(_dead_letters(site.services))
    bad = {(m.key, m.value) for m in story.messages if m.poison}
    copies = [letters[one] for one in bad]
    return Verdict(len(expected), lost, stale, wrong, len(bad), copies.count(0), max(copies, default=0))


def _same(one: _State, other: _State) -> bool:
    """Vectors may differ in what depends on the batch that a product was embedded with."""
    return one[1:3] == other[1:3] and float(one.vector @ other.vector) > 0.999


def _undisturbed(site: Site, story: Story) -> dict[str, _State]:
    """The same stream through one pipeline in this process, in order, with a store of its own."""
    settings = site.services.settings.model_copy(update={"state_dir": site.folder / f"calm-{story.prefix}"})
    with Services(settings) as services, ImageFetcher(root=[site.folder]) as fetcher:
        images = CachedImageVectors(fetcher.fetch_many, services.triton.encode_images, services.visual_cache)
        services.prepare_visual_encoder()
        pipeline = CatalogPipeline(services.features, images, services.embedder, lambda vectors: None)
        for start in range(0, len(story.messages), 200):
            pipeline.process(story.messages[start : start + 200])
        return _states(services, story.prefix)


def _states(services: Services, prefix: str) -> dict[str, _State]:
    out = {}
    for page in services.features.scan_features():
        mine = [p for p in page if p.id.startswith(prefix)]
        embeddings = services.features.read_embeddings("1", [p.id for p in mine])
        for p in mine:
            embedding = embeddings.get(p.id)
            if embedding is None or embedding.deleted:
                continue
            features = (p.text, p.image_urls, p.image_hashes, p.amount_minor, p.currency, p.availability)
            out[p.id] = _State(p.version, features, embedding.content_hash, embedding.vector)
    return out


def _last_vectors(services: Services, prefix: str) -> dict[str, ProductVector]:
    """By product its last record on the topic, as a fresh reader finds it; without those that are deleted."""
    last = {record.key: record.value for record in _all(services, PRODUCT_EMBEDDINGS)}
    wanted = f"1/{prefix}".encode()
    return {
        key.decode().partition("/")[2]: decode_vector(value)
        for key, value in last.items()
        if value is not None and key.startswith(wanted)
    }


def _dead_letters(services: Services) -> Iterator[tuple[bytes, bytes]]:
    for record in _all(services, dead_letter_topic(CATALOG_UPDATES)):
        yield record.key, record.value


def _all(services: Services, topic: str) -> Iterator[Any]:
    consumer = services.kafka.consumer()
    try:
        partitions = [TopicPartition(topic, p) for p in consumer.partitions_for_topic(topic)]
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        ends = consumer.end_offsets(partitions)
        while any(consumer.position(tp) < end for tp, end in ends.items()):
            for records in consumer.poll(500).values():
                yield from records
    finally:
        consumer.close()


# Making the site.


@contextmanager
def _own_site(folder: Path, say: Say) -> Iterator[Site]:
    """Servers of its own, with a small model: what is tested does not depend on its size."""
    import torch

    from inference.model import ItemSage, ItemSageConfig
    from inference.repository import export_release, export_visual_encoder, set_live
    from inference.tokenizer import Tokenizer

    cache = load_settings().cache
    fetch_all(cache, say)
    models = folder / "models"
    tokenizer = Tokenizer.fit([{"title": " ".join(_WORDS[i:] + _WORDS[:i])} for i in range(len(_WORDS))])
    torch.manual_seed(1)
    model = ItemSage(ItemSageConfig(tokenizer.size, table_rows=499, width=64, heads=4, feedforward=128))
    export_release(models, model, tokenizer)
    set_live(models, "1")
    export_visual_encoder(models)
    (folder / "site").mkdir()
    with (
        KafkaBroker(folder / "kafka", cache) as broker,
        TritonServer(folder / "triton", cache, models) as triton,
        Services(
            load_settings(
                state_dir=folder / "site" / "state",
                kafka={"bootstrap_servers": broker.bootstrap},
                triton={"url": triton.grpc, "model_repository": models},
            )
        ) as services,
    ):
        yield Site(services, broker, triton, folder / "site")


def _pictures(folder: Path) -> list[str]:
    paths = [folder / f"{name}.png" for name in ("red", "green", "blue")]
    for path, colour in zip(paths, ((220, 30, 30), (30, 180, 60), (30, 30, 220)), strict=True):
        Image.new("RGB", (64, 48), colour).save(path)
    return [str(path) for path in paths]


def _message(update: ProductUpdate) -> Message:
    return Message(update.id.encode(), encode(update))


Fault = Callable[[Site, _Consumers], None]
FAULTS: tuple[Fault, ...] = (kill_consumer, kill_model, join_and_leave, kill_broker, lock_store, kill_triton)

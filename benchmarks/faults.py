"""The catalogue consumer under kills, outages and bad messages: what differs from a run that nothing disturbed.

A seeded stream of upserts, patches, deletes, duplicates, old versions and 1 % poison of ten kinds goes through real
consumers, broker and Triton, while consumers are killed, join and leave, Triton's model process, Triton and the broker
are killed, the broker is out of reach for a minute, the feature store is locked, and the disk takes nothing. Then every
product's features, embedding and last record on `product.embeddings` and `product.offers` are held against those of the
same stream put through one pipeline in one process, in order. Beside it a stream of events with duplicates, early
refunds and poison goes into the database.

`lost`: products whose features, embedding or vector on the topic are missing (or there, though deleted). `stale`: of an
older version. `wrong`: of other content. `poison_missing`: bad messages that are not among the dead letters.
`poison_copies`: the most dead letters of one bad message; a batch that was under way when a consumer died is read
again, so there may be one for each death. `events_wrong`: events that the database lacks, has twice, or has with other
content; `event_poison_missing`: bad events that are not among the dead letters. `--updates` says how long the streams
are: every fault happens once for each 10,000, those that take long only from there on.
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
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
from PIL import Image

from benchmarks._fault_stories import WORDS, EventStory, Story, differing_events
from benchmarks.harness import Row, figure
from sagelift.services import CATALOG_GROUP, EVENTS_GROUP, Services
from sagelift.settings import load_settings
from sagelift.stack.components import fetch_all
from sagelift.stack.kafka import KafkaBroker
from sagelift.stack.triton import TritonServer
from streaming.catalogue.images.fetch import ImageFetcher
from streaming.catalogue.images.vectors import CachedImageVectors
from streaming.catalogue.pipeline import CatalogPipeline
from streaming.contracts import ProductOffer, ProductVector
from streaming.errors import BrokerError
from streaming.kafka.codec import JSON
from streaming.kafka.connection import KafkaError, TopicPartition
from streaming.kafka.lag import LagMeter
from streaming.kafka.topic_admin import ensure_topics
from streaming.kafka.topics import CATALOG_UPDATES, EVENTS, PRODUCT_EMBEDDINGS, PRODUCT_OFFERS, dead_letter_topic

UPDATES = 6_000

Say = Callable[[str], None]


class Verdict(NamedTuple):
    """What differs from an undisturbed run, and what became of the bad messages."""

    products: int
    lost: int
    stale: int
    wrong: int
    poison: int
    poison_missing: int
    poison_copies: int
    events: int
    events_wrong: int
    event_poison_missing: int


def rows(say: Say, updates: int = UPDATES) -> list[Row]:
    """All figures for a stream of `updates` messages, a tenth as many products, on servers of its own."""
    with tempfile.TemporaryDirectory(prefix="sagelift-faults-") as folder, ExitStack() as stack:
        site = stack.enter_context(_own_site(Path(folder), say))
        faults = (*FAULTS, *LONG_FAULTS) * (updates // 10_000) or FAULTS
        story = Story("f-", updates, site.pictures, seed=7)
        found = disturbed(site, story, EventStory("f-", updates, seed=8), faults, say)
    say(f"{found.products} products, {found.poison} bad messages, {found.events} events")
    return [
        *(figure(name, "products", float(getattr(found, name)), at_most=0.0) for name in ("lost", "stale", "wrong")),
        figure("poison_missing", "messages", float(found.poison_missing), at_most=0.0),
        figure("poison_copies", "dead letters of one message", float(found.poison_copies)),
        figure("events_wrong", "events", float(found.events_wrong), at_most=0.0),
        figure("event_poison_missing", "messages", float(found.event_poison_missing), at_most=0.0),
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

    def consumer(self, name: str = "catalog") -> subprocess.Popen[bytes]:
        """`sagelift stream <name>`, in a process of its own."""
        command = [sys.executable, "-m", "sagelift", "stream", name]
        with open(self.folder / "consumer.log", "ab") as log:
            return subprocess.Popen(command, env={**os.environ, **self.environment}, stdout=log, stderr=log)


def disturbed(site: Site, story: Story, events: EventStory, faults: Sequence[Fault], say: Say) -> Verdict:
    """Put both stories through consumers, a part before each of the faults, and judge what is left."""
    ensure_topics(site.services.kafka)
    parts = np.array_split(np.arange(len(story.messages)), len(faults))
    event_parts = np.array_split(np.arange(len(events.messages)), len(faults))
    with _Consumers(site) as consumers:
        for fault, part, event_part in zip(faults, parts, event_parts, strict=True):
            say(f"{len(part)} messages, then: {fault.__doc__}")
            middle = consumers.left() + len(part) * 2 // 3
            _publish(site.services, EVENTS, [events.messages[i] for i in event_part])
            _publish(site.services, CATALOG_UPDATES, [(m.key, m.value) for i in part if (m := story.messages[i])])
            consumers.wait_until_left(middle)  # there is work under way, most of the time
            fault(site, consumers)
        say("waiting for the consumers to finish")
        consumers.wait_until_left(0)
        consumers.end()
    return judged(site, story, events)


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


def join_and_kill(site: Site, consumers: _Consumers) -> None:
    """a second consumer joins, and the first is killed"""
    consumers.start()
    consumers.wait_for_members(2)
    consumers.kill()


def kill_sink(site: Site, consumers: _Consumers) -> None:
    """the event sink is killed, and started again"""
    consumers.kill_sink()


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
    with _locked_store(site):
        consumers.kill()
        consumers.start()
        _let_pass(2)


def lock_store_for_long(site: Site, consumers: _Consumers) -> None:
    """another process locks the feature store for 20 seconds"""
    with _locked_store(site):
        _let_pass(20)


def broker_away(site: Site, consumers: _Consumers) -> None:
    """the broker does not answer for a minute, and the connections to it hang"""
    consumers.hang_up()
    broker = psutil.Process(site.broker.pid)
    broker.suspend()
    try:
        _let_pass(60)
    finally:
        broker.resume()


def full_disk(site: Site, consumers: _Consumers) -> None:
    """no file of the consumer and of the event sink can grow for ten seconds"""
    limited = [psutil.Process(process.pid) for process in consumers.processes()]
    before = [process.rlimit(psutil.RLIMIT_FSIZE) for process in limited]
    for process, (_, hard) in zip(limited, before, strict=True):
        process.rlimit(psutil.RLIMIT_FSIZE, (4096, hard))
    _let_pass(10)
    for process, limits in zip(limited, before, strict=True):
        process.rlimit(psutil.RLIMIT_FSIZE, limits)


@contextmanager
def _locked_store(site: Site) -> Iterator[None]:
    (path,) = (site.services.settings.state / "feast").glob("**/online*.db")
    with sqlite3.connect(path, timeout=30, isolation_level=None) as database:
        database.execute("begin immediate")
        yield
        database.execute("rollback")


def _let_pass(seconds: float) -> None:
    threading.Event().wait(seconds)


class _Consumers:
    """The consumers' processes, the oldest first. A context manager that leaves none running."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._running: list[subprocess.Popen[bytes]] = []
        self._sink: subprocess.Popen[bytes] | None = None
        self._meters: list[LagMeter] = []

    def __enter__(self) -> _Consumers:
        self.start()
        self._sink = self._site.consumer("events")
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes():
            process.kill()
            process.wait(30)
        self.hang_up()

    def processes(self) -> list[subprocess.Popen[bytes]]:
        """All that are running."""
        return [*self._running, *([self._sink] if self._sink else [])]

    def kill_sink(self) -> None:
        assert self._sink is not None
        self._sink.kill()
        self._sink.wait(30)
        self._sink = self._site.consumer("events")

    def start(self) -> None:
        self._running.append(self._site.consumer())

    def kill(self) -> None:
        process = self._running.pop(0)
        process.kill()
        process.wait(30)

    def leave(self) -> None:
        """The oldest ends as a supervisor ends it; it must, in time and well."""
        _end(self._running.pop(0))

    def end(self) -> None:
        while self._running:
            self.leave()
        if self._sink is not None:
            _end(self._sink)
            self._sink = None

    def left(self) -> int:
        """Updates not committed yet, and events; many while the broker does not say."""
        try:
            if not self._meters:
                kafka = self._site.services.kafka
                for group, topic in ((CATALOG_GROUP, CATALOG_UPDATES), (EVENTS_GROUP, EVENTS)):
                    self._meters.append(LagMeter(kafka, group, topic))
            return sum(meter.lag() for meter in self._meters)
        except (KafkaError, BrokerError):
            return 1 << 30

    def hang_up(self) -> None:
        """Close our own connections to the broker: kafka-python leaks a socket for each time that it calls in vain."""
        while self._meters:
            self._meters.pop().close()

    def wait(self, condition: Callable[[], bool], timeout_s: float = 300) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            for process in self.processes():
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


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    if code := process.wait(30):
        raise RuntimeError(f"a consumer that was asked to stop ended with {code}")


def _members(admin: Any) -> int:
    """Members of the group that have partitions."""
    try:
        group = admin.describe_groups([CATALOG_GROUP])[CATALOG_GROUP]
    except KafkaError:
        return 0
    return len(group["members"])


def _publish(services: Services, topic: str, messages: Sequence[tuple[bytes, bytes]]) -> None:
    producer = services.kafka.producer()
    try:
        sent = [producer.send(topic, key=key, value=value) for key, value in messages]
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


def judged(site: Site, story: Story, events: EventStory) -> Verdict:
    """What differs now from the same stream without disturbance."""
    expected = _undisturbed(site, story)
    found = _states(site.services, story.prefix)
    topic = _last_vectors(site.services, story.prefix)
    offers = _last_offers(site.services, story.prefix)
    lost = stale = wrong = 0
    for id in expected.keys() | found.keys() | topic.keys() | offers.keys():
        if not (id in expected and id in found and id in topic and id in offers):
            lost += 1
        elif found[id].version != expected[id].version:
            stale += 1
        elif not (
            _same(found[id], expected[id])
            and topic[id].content_hash == expected[id].content_hash
            and _filtered_by(offers[id]) == expected[id].features[-3:]
        ):
            wrong += 1
    letters = Counter(_dead_letters(site.services, CATALOG_UPDATES))
    bad_events = (key for key, _ in _dead_letters(site.services, EVENTS))
    events_wrong, event_poison_missing = differing_events(site.services, events, bad_events)
    bad = {(m.key, m.value) for m in story.messages if m.poison}
    copies = [letters[one] for one in bad]
    return Verdict(
        *(len(expected), lost, stale, wrong),
        *(len(bad), copies.count(0), max(copies, default=0)),
        *(len(events.messages), events_wrong, event_poison_missing),
    )


def _same(one: _State, other: _State) -> bool:
    """Vectors may differ in what depends on the batch that a product was embedded with."""
    return one[1:3] == other[1:3] and float(one.vector @ other.vector) > 0.999


def _undisturbed(site: Site, story: Story) -> dict[str, _State]:
    """The same stream through one pipeline in this process, in order, with a store of its own."""
    settings = site.services.settings.model_copy(update={"state_dir": site.folder / f"calm-{story.prefix}"})
    with Services(settings) as services, ImageFetcher(root=[site.folder]) as fetcher:
        images = CachedImageVectors(fetcher.fetch_many, services.triton.encode_images, services.visual_cache)
        services.prepare_visual_encoder()
        pipeline = CatalogPipeline(services.features, images, services.embedder, _nowhere, _nowhere, JSON)
        for start in range(0, len(story.messages), 200):
            pipeline.process(story.messages[start : start + 200])
        return _states(services, story.prefix)


def _nowhere(*_: Any, **__: Any) -> None:
    """Publish nothing."""


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
        key.decode().partition("/")[2]: JSON.decode(ProductVector, value)
        for key, value in last.items()
        if value is not None and key.startswith(wanted)
    }


def _last_offers(services: Services, prefix: str) -> dict[str, ProductOffer]:
    """By product what it is filtered by, likewise."""
    last = {record.key.decode(): record.value for record in _all(services, PRODUCT_OFFERS)}
    return {
        id: JSON.decode(ProductOffer, value)
        for id, value in last.items()
        if value is not None and id.startswith(prefix)
    }


def _filtered_by(offer: ProductOffer) -> tuple[Any, ...]:
    return offer.amount_minor, offer.currency, offer.availability


def _dead_letters(services: Services, topic: str) -> Iterator[tuple[bytes, bytes]]:
    for record in _all(services, dead_letter_topic(topic)):
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
    from inference.releases.export import export_release, export_visual_encoder
    from inference.releases.repository import set_live
    from inference.tokenizer import Tokenizer

    cache = load_settings().cache
    fetch_all(cache, say)
    models = folder / "models"
    tokenizer = Tokenizer.fit([{"title": " ".join(WORDS[i:] + WORDS[:i])} for i in range(len(WORDS))])
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


Fault = Callable[[Site, _Consumers], None]
FAULTS: tuple[Fault, ...] = (
    kill_consumer,
    kill_sink,
    kill_model,
    join_and_leave,
    kill_broker,
    join_and_kill,
    lock_store,
    kill_triton,
)
LONG_FAULTS: tuple[Fault, ...] = (lock_store_for_long, full_disk, broker_away)

"""The installation of `benchmarks.faults`: servers of its own, and consumers as processes that can be killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks._fault_stories import WORDS
from benchmarks.harness import Say
from sagelift.services import CATALOG_GROUP, EVENTS_GROUP, Services
from sagelift.settings import load_settings
from sagelift.stack.components import fetch_all
from sagelift.stack.kafka import KafkaBroker
from sagelift.stack.triton import TritonServer
from streaming.errors import BrokerError
from streaming.kafka.connection import KafkaError
from streaming.kafka.lag import LagMeter
from streaming.kafka.topics import CATALOG_UPDATES, EVENTS


class Site:
    """An installation whose parts the faults can kill.

    Attributes:
        services: Services on the servers.
        broker: The broker.
        triton: The Triton server.
        folder: Folder of the pictures and of the consumers' log.
        pictures: Paths of three pictures.
        environment: Variables that point a consumer process to the servers.
    """

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
        """Start `sagelift stream <name>` as a process."""
        command = [sys.executable, "-m", "sagelift", "stream", name]
        with open(self.folder / "consumer.log", "ab") as log:
            return subprocess.Popen(command, env={**os.environ, **self.environment}, stdout=log, stderr=log)


class Consumers:
    """The processes of the consumers, oldest first. As a context manager it leaves none running."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._running: list[subprocess.Popen[bytes]] = []
        self._sink: subprocess.Popen[bytes] | None = None
        self._meters: list[LagMeter] = []

    def __enter__(self) -> Consumers:
        self.start()
        self._sink = self._site.consumer("events")
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes():
            process.kill()
            process.wait(30)
        self.hang_up()

    def processes(self) -> list[subprocess.Popen[bytes]]:
        """Return all running processes."""
        return [*self._running, *([self._sink] if self._sink else [])]

    def kill_sink(self) -> None:
        """Kill the event sink and start another."""
        assert self._sink is not None
        self._sink.kill()
        self._sink.wait(30)
        self._sink = self._site.consumer("events")

    def start(self) -> None:
        """Start one more catalogue consumer."""
        self._running.append(self._site.consumer())

    def kill(self) -> None:
        """Kill the oldest catalogue consumer."""
        process = self._running.pop(0)
        process.kill()
        process.wait(30)

    def leave(self) -> None:
        """Stop the oldest catalogue consumer with SIGTERM; it must end in time and with exit code 0."""
        _end(self._running.pop(0))

    def end(self) -> None:
        """Stop all processes."""
        while self._running:
            self.leave()
        if self._sink is not None:
            _end(self._sink)
            self._sink = None

    def left(self) -> int:
        """Return the messages that are not committed yet; a large number while the broker does not answer."""
        try:
            if not self._meters:
                kafka = self._site.services.kafka
                for group, topic in ((CATALOG_GROUP, CATALOG_UPDATES), (EVENTS_GROUP, EVENTS)):
                    self._meters.append(LagMeter(kafka, group, topic))
            return sum(meter.lag() for meter in self._meters)
        except (KafkaError, BrokerError):
            return 1 << 30

    def hang_up(self) -> None:
        """Close our connections to the broker, because kafka-python leaks a socket at each failed call."""
        while self._meters:
            self._meters.pop().close()

    def wait(self, condition: Callable[[], bool], timeout_s: float = 300) -> None:
        """Wait for a condition; raises RuntimeError at the deadline or if a consumer ended by itself."""
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
        """Wait until at most so many messages are not committed."""
        self.wait(lambda: self.left() <= messages)

    def wait_for_members(self, number: int) -> None:
        """Wait until the catalogue's group has so many members."""
        admin = self._site.services.kafka.admin()
        try:
            self.wait(lambda: _members(admin) == number)
        finally:
            admin.close()


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    if code := process.wait(30):
        raise RuntimeError(f"a consumer ended with {code} after SIGTERM")


def _members(admin: Any) -> int:
    """Return the number of members of the catalogue's group."""
    try:
        group = admin.describe_groups([CATALOG_GROUP])[CATALOG_GROUP]
    except KafkaError:
        return 0
    return len(group["members"])


def publish(services: Services, topic: str, messages: Sequence[tuple[bytes, bytes]]) -> None:
    """Send messages (key, value) and wait until the broker has them."""
    producer = services.kafka.producer()
    try:
        sent = [producer.send(topic, key=key, value=value) for key, value in messages]
        producer.flush(60)
        for future in sent:
            future.get(60)
    finally:
        producer.close(5)


@contextmanager
def own_site(folder: Path, say: Say) -> Iterator[Site]:
    """Start servers with a small model: the result does not depend on its size."""
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

"""Updates and events through the real broker, Triton, feature store and database: nothing lost, nothing stale.

One installation for all tests; each has products of its own. Consumers run as threads, or, where they are killed, as
the processes that `sagelift stream` starts.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kafka.admin import NewTopic
from PIL import Image
from sqlalchemy import text

from experiments.config import Arm, ExperimentConfig
from feature_repo.recent import Engagement, by_user, merged
from inference.inputs import ProductInput
from inference.retrieval import Filter, RetrievalIndex
from inference.triton.embedder import ItemEmbedder
from sagelift.services import CATALOG_GROUP, EVENTS_GROUP, Services
from sagelift.settings import load_settings
from sagelift.stack.kafka import KafkaBroker
from sagelift.stack.triton import TritonServer
from sagelift.workers import catalog_worker, events_worker
from streaming.contracts import Event, Price, ProductUpdate
from streaming.errors import TopicError
from streaming.events.conversion import to_row
from streaming.kafka.connection import TopicPartition
from streaming.kafka.lag import LagMeter
from streaming.kafka.producers import CatalogPublisher, EventPublisher
from streaming.kafka.topic_admin import ensure_topics, log_id
from streaming.kafka.topics import CATALOG_UPDATES, EVENTS, dead_letter_topic
from streaming.vectors.follower import IndexFollower

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

NOW = datetime.now(UTC).replace(microsecond=0)
COLOURS = {"red": (220, 30, 30), "blue": (30, 30, 220), "green": (30, 180, 60)}
ERRORS = "__connect.errors."


class Shop:
    """An installation: services of this process, and what to start consumers with."""

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
        self.services.embedder()

    def publish(self, *updates: ProductUpdate) -> None:
        with CatalogPublisher(self.services.kafka) as publisher:
            publisher.send_all(updates)

    def lag(self, group: str = CATALOG_GROUP, topic: str = CATALOG_UPDATES) -> int:
        with LagMeter(self.services.kafka, group, topic) as meter:
            return meter.lag()

    def caught_up(self, group: str = CATALOG_GROUP, topic: str = CATALOG_UPDATES, timeout_s: float = 60) -> None:
        with LagMeter(self.services.kafka, group, topic) as meter:
            until(lambda: meter.lag() == 0, f"{group} to read all of {topic}", timeout_s)

    def state(self, prefix: str) -> dict[str, Any]:
        """Features and embeddings of the products whose ids begin so, by the rest of the id."""
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
            end, found = consumer.end_offsets([tp])[tp], []
            while consumer.position(tp) < end:
                found += consumer.poll(500).get(tp, [])
        finally:
            consumer.close()
        return [r for r in found if dict(r.headers)[ERRORS + "stage"] == stage.encode()]


def until(condition: Callable[[], bool], what: str, timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s:.0f} s in vain for {what}"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def shop(
    tmp_path_factory: pytest.TempPathFactory, kafka: KafkaBroker, triton: TritonServer, model_repository: Path
) -> Iterator[Shop]:
    shop = Shop(tmp_path_factory.mktemp("shop"), kafka, triton, model_repository)
    ensure_topics(shop.services.kafka)
    yield shop
    shop.services.close()


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
        if failed:  # the cause of whatever else went wrong
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


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Link to a picture, by colour."""
    folder = tmp_path_factory.mktemp("pictures")
    for name, colour in COLOURS.items():
        Image.new("RGB", (64, 48), colour).save(folder / f"{name}.png")
    (folder / "broken.png").write_bytes(b"\x89PNG but no more")
    return {name: str(folder / f"{name}.png") for name in (*COLOURS, "broken")}


def test_a_catalogue_becomes_retrievable_follows_its_changes_and_forgets_what_is_deleted(
    shop: Shop, pictures: dict[str, str]
) -> None:
    index, applied, offers = RetrievalIndex("1"), [], []
    with (
        consuming(shop),
        IndexFollower(
            shop.services.kafka,
            index,
            lambda id, ms: applied.append((id, ms)),
            on_offer=lambda id, ms: offers.append((id, ms)),
        ) as follower,
    ):

        def settled() -> None:
            shop.caught_up()
            assert follower.catch_up(20)

        shop.publish(
            *(upsert(f"a-{c}", 10, f"{c} table", pictures[c], cents=1234) for c in COLOURS),
            upsert("a-bare", 10, "oak chair"),
            upsert("a-half", 10, "pine lamp", pictures["red"], pictures["broken"], pictures["broken"] + "2"),
        )
        settled()
        stored = shop.services.features.read_features(["a-red", "a-bare", "a-half"])
        assert stored["a-red"].amount_minor == 1234
        assert len(stored["a-red"].image_vectors) == 1
        assert len(stored["a-bare"].image_vectors) == 0
        assert stored["a-half"].image_urls == [pictures["red"], pictures["broken"], pictures["broken"] + "2"]
        assert [bool(digest) for digest in stored["a-half"].image_hashes] == [True, False, False]
        (letter,) = shop.dead_letters(CATALOG_UPDATES, "image")
        assert letter.key == b"a-half"

        # The vector in the store is what the model says of this product, and the index finds the product by it.
        embedding = shop.services.features.read_embeddings("1", ["a-red"])["a-red"]
        expected = ItemEmbedder(shop.services.triton, shop.settings.model_repository).embed_products(
            [ProductInput("a-red", stored["a-red"].text, stored["a-red"].image_vectors)]
        )
        np.testing.assert_allclose(embedding.vector, expected.vectors[0], atol=1e-3)
        assert index.search(embedding.vector[None], 1)[0].ids == ["a-red"]
        assert {id for id, _ in applied} >= {"a-red", "a-blue", "a-green", "a-bare", "a-half"}
        assert all(0 <= ms < 60_000 for _, ms in applied)

        assert {id for id, _ in offers} >= {"a-red", "a-blue", "a-green", "a-bare", "a-half"}
        applied.clear()
        offers.clear()
        shop.publish(
            patch("a-red", 11, price=Price(Decimal("9.99"), "EUR"), availability="out_of_stock"),
            patch("a-blue", 11, title="green coat"),
            delete("a-green", 11),
            upsert("a-bare", 9, "an older title"),
        )
        settled()
        now = shop.services.features.read_features(["a-red", "a-blue", "a-green", "a-bare"])
        assert (now["a-red"].amount_minor, now["a-red"].availability, now["a-red"].version) == (999, "out_of_stock", 11)
        assert shop.services.features.read_embeddings("1", ["a-red"])["a-red"].version == 10, "no inference for a price"
        # An older update may be one that is read again after a crash: the newest vector goes out again.
        assert {id for id, _ in applied} == {"a-blue", "a-bare"}
        assert [id for id, _ in offers] == ["a-red"]
        assert all(0 <= ms < 60_000 for _, ms in offers)
        cheap = Filter(max_price=999, currency="EUR")
        assert index.search(embedding.vector[None], 100, where=cheap)[0].ids == ["a-red"]
        assert now["a-green"].deleted
        assert "a-green" not in index
        assert "a-red" in index
        assert now["a-bare"].text["title"] == "oak chair"

        shop.publish(upsert("a-green", 10, "back from the dead"))
        settled()
        assert "a-green" not in index

        # A fresh reader rebuilds the same from the topic alone.
        fresh = RetrievalIndex("1")
        with IndexFollower(shop.services.kafka, fresh) as second:
            assert second.catch_up(20)
        assert len(fresh) == len(index)
        assert "a-green" not in fresh
        assert fresh.search(embedding.vector[None], 100, where=cheap)[0].ids == ["a-red"]


def test_bad_messages_become_dead_letters_unchanged_and_stop_nothing(shop: Shop) -> None:
    poison = {b"b-1": b'{"id": "b-1", ', b"b-2": b"\x00\xff", b"\xff\xfe": b'{"id":7}', b"b-4": None}
    producer = shop.services.kafka.producer()
    for key, value in poison.items():
        producer.send(CATALOG_UPDATES, key=key, value=value, headers=[("traceparent", b"00-abc")])
    producer.flush(10)
    producer.close()
    shop.publish(upsert("b-good", 1, "oak table"))
    with consuming(shop):
        shop.caught_up()
    letters = shop.dead_letters(CATALOG_UPDATES, "decode")
    assert {letter.key: letter.value for letter in letters} == poison
    assert len(letters) == len(poison)
    for letter in letters:
        headers = dict(letter.headers)
        assert headers["traceparent"] == b"00-abc"
        assert headers[ERRORS + "topic"] == CATALOG_UPDATES.encode()
        assert headers[ERRORS + "consumer.group"] == CATALOG_GROUP.encode()
        assert headers[ERRORS + "exception.class.name"] == b"ContractError"
        assert int(headers[ERRORS + "offset"]) >= 0
    assert list(shop.state("b-")) == ["good"]


def test_damaged_bytes_on_the_brokers_disk_are_skipped_with_a_dead_letter(shop: Shop) -> None:
    """kafka-python raises for a bad checksum and would spin on it forever."""
    shop.publish(upsert("c-1", 1, "oak table rotten"))
    segments = sorted(shop.kafka.folder.glob(f"data/{CATALOG_UPDATES}-*/00000000000000000000.log"))
    damaged = [path for path in segments if b"c-1" in (raw := path.read_bytes()) and rot(path, raw, b"c-1")]
    assert len(damaged) == 1
    with consuming(shop):
        shop.publish(upsert("c-1", 2, "oak table sound"), *(upsert(f"c-more{n}", 1, "blue lamp") for n in range(16)))
        shop.caught_up()
    (letter,) = shop.dead_letters(CATALOG_UPDATES, "fetch")
    headers = dict(letter.headers)
    assert headers[ERRORS + "exception.class.name"] == b"CorruptRecordError"
    assert f"-{headers[ERRORS + 'partition'].decode()}" == damaged[0].parent.name[-2:]
    assert len(shop.state("c-")) == 17
    assert shop.state("c-")["1"][0][0] == 2


def rot(path: Path, raw: bytes, needle: bytes) -> bool:
    """Flip a bit of the record's key, which stands before its value."""
    at = raw.index(needle)
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(bytes([raw[at] ^ 1]))
    return True


def story(prefix: str, pictures: dict[str, str], products: int) -> list[ProductUpdate]:
    """A stream of upserts, patches, deletes, duplicates and old versions, the same for each prefix."""
    chance = np.random.default_rng(5)
    colours, out = list(COLOURS), []
    for n in range(products):
        out.append(upsert(f"{prefix}{n}", 10, f"{colours[n % 3]} chair {n}", *([pictures[colours[n % 3]]] * (n % 2))))
    for version in range(11, 16):
        for n in chance.permutation(products)[: products // 2]:
            kind = chance.integers(6)
            id = f"{prefix}{n}"
            if kind < 2:
                out.append(upsert(id, version, f"wool coat {n} {version}", cents=100 * version))
            elif kind == 2 and n % 7 == 0:
                out.append(delete(id, version))
            elif kind == 3:
                out.append(upsert(id, 9, "from long ago"))
            else:
                out.append(out[n])
    return out


def test_a_consumer_that_was_killed_has_the_result_of_one_that_was_not(shop: Shop, pictures: dict[str, str]) -> None:
    shop.publish(*story("calm-", pictures, 150))
    with consuming(shop):
        shop.caught_up()
    stream = story("storm-", pictures, 150)
    shop.publish(*stream)
    before = shop.lag()
    with process(shop, "catalog") as consumer:
        until(lambda: bool(shop.state_ids("storm-")), "the first products of the storm", 60)
        consumer.kill()
        consumer.wait(10)
    assert 0 < shop.lag() <= before, "killed in the middle"
    with process(shop, "catalog") as consumer:
        shop.caught_up()
        consumer.send_signal(signal.SIGTERM)
        assert consumer.wait(20) == 0
    calm, storm = shop.state("calm-"), shop.state("storm-")
    assert len(calm) > 100
    assert storm == calm


def test_consumers_that_join_and_leave_lose_nothing(shop: Shop, pictures: dict[str, str]) -> None:
    with ExitStack() as first:
        first.enter_context(consuming(shop))
        shop.publish(*story("d-", pictures, 60))
        with consuming(shop):
            shop.publish(*story("e-", pictures, 60))
            first.close()
            shop.caught_up()
    state = shop.state("d-")
    assert len(state) > 40
    assert shop.state("e-") == state


def test_triton_killed_and_started_again_during_the_stream_loses_nothing(shop: Shop) -> None:
    with consuming(shop):
        shop.publish(*(upsert(f"f-{n}", 1, f"summer dress {n}") for n in range(60)))
        shop.triton.kill()
        shop.publish(*(upsert(f"g-{n}", 1, f"summer dress {n}") for n in range(60)))
        shop.triton.restart()
        shop.caught_up()
    first, second = shop.state("f-"), shop.state("g-")
    assert len(first) == 60
    assert second == first


def test_a_missing_topic_is_named(shop: Shop) -> None:
    with pytest.raises(TopicError, match=r"no\.such\.topic"):
        LagMeter(shop.services.kafka, "g", "no.such.topic")


# Events.


def test_a_topic_that_is_created_again_is_another_log(shop: Shop) -> None:
    """The offsets of the old log would skip events of the new one."""
    admin = shop.services.kafka.admin()
    try:
        admin.create_topics([NewTopic("made.anew", 1, 1)])
        first = log_id(shop.services.kafka, "made.anew")
        assert log_id(shop.services.kafka, "made.anew") == first
        admin.delete_topics(["made.anew"])
        until(lambda: "made.anew" not in admin.list_topics(), "the topic to be gone")
        admin.create_topics([NewTopic("made.anew", 1, 1)])
        second = log_id(shop.services.kafka, "made.anew")
    finally:
        admin.close()
    assert first.split("/")[0] == second.split("/")[0], "the same cluster"
    assert first != second


def click(number: int) -> Event:
    return Event(
        event_id=f"click-{number}",
        kind="click",
        unit_id=f"u{number % 97}",
        event_time=NOW + timedelta(microseconds=number * 7919 % 6500),  # in no order
        product_id=f"p{number % 131}",
        surface="user",
    )


def exposure(number: int, arm: str = "a", experiment: str = "colours") -> Event:
    return Event(
        event_id=f"exposure-{experiment}-{arm}-{number}",
        kind="exposure",
        unit_id=f"u{number}",
        event_time=NOW,
        experiment=experiment,
        arm=arm,
        config_version=1,
    )


def count(shop: Shop, table: str) -> int:
    with shop.services.database.connect() as connection:
        return int(connection.execute(text(f"select count(*) from {table}")).scalar_one())


def send(shop: Shop, events: Sequence[Event]) -> None:
    with EventPublisher(shop.services.kafka) as publisher:
        for event in events:
            publisher.send(event)


def test_events_count_once_although_they_are_sent_twice_and_the_sink_is_killed(shop: Shop) -> None:
    store = shop.services.experiments
    store.create_experiment("colours", actor="test")
    config = ExperimentConfig(
        key="colours", salt="s", coverage=10_000, arms=(Arm("a", 5000), Arm("b", 5000)), control="a"
    )
    store.publish(config, actor="test")
    store.transition("colours", "running", actor="test", reason="test")
    order = Event(
        event_id="o-1", kind="order", unit_id="u1", event_time=NOW, order_id="o", amount_minor=500, currency="EUR"
    )
    refund = Event(
        event_id="r-1", kind="refund", unit_id="u1", event_time=NOW, order_id="o", amount_minor=200, currency="EUR"
    )
    all_clicks = [click(n) for n in range(6500)]
    clicks = all_clicks[:6000]
    send(shop, [refund, order, *(exposure(n) for n in range(50)), exposure(0, arm="b"), *clicks])
    send(shop, [exposure(1, experiment="unknown"), exposure(1, arm="nobody"), order, *clicks[:500]])
    with process(shop, "events") as sink:
        until(lambda: count(shop, "sink_offset") > 0, "the first transaction", 60)
        sink.kill()
        sink.wait(10)
    send(shop, [*all_clicks[3000:], exposure(2)])
    with process(shop, "events") as sink:
        shop.caught_up(EVENTS_GROUP, EVENTS)
        sink.send_signal(signal.SIGTERM)
        assert sink.wait(20) == 0
    assert count(shop, "event") == 6500
    assert count(shop, "exposure") == 51
    engaged = [Engagement(event.unit_id, event.product_id or "", to_row(event).event_time) for event in all_clicks]
    lists = {user: merged(None, some) for user, some in by_user(engaged).items()}
    recent = shop.services.features.read_recent(lists)
    assert {user: row.product_ids for user, row in recent.items()} == {
        user: row.product_ids for user, row in lists.items() if row
    }
    with shop.services.database.connect() as connection:
        ledger = connection.execute(text("select kind, amount_minor from order_event order by kind")).all()
        arms = dict(connection.execute(text("select unit_id, arm from first_exposure")).all())
    assert [tuple(row) for row in ledger] == [("placed", 500), ("refunded", -200)]
    assert (arms["u0"], arms["u1"], len(arms)) == ("__multiple__", "a", 50)
    assert len({letter.value for letter in shop.dead_letters(EVENTS, "store")}) == 2
    consumer = shop.services.kafka.consumer()
    try:
        ends = consumer.end_offsets([TopicPartition(EVENTS, p) for p in consumer.partitions_for_topic(EVENTS)])
    finally:
        consumer.close()
    assert store.offsets(EVENTS, log_id(shop.services.kafka, EVENTS)) == {
        tp.partition: end for tp, end in ends.items() if end
    }


def test_the_sink_resumes_at_the_offsets_of_the_database_not_of_kafka(shop: Shop) -> None:
    """A database restored from a backup is filled again, whatever offsets the group has committed."""
    shop.caught_up(EVENTS_GROUP, EVENTS)
    rows = count(shop, "event")
    with shop.services.database.begin() as connection:
        connection.execute(text("delete from event"))
        connection.execute(text("delete from sink_offset"))
    with consuming(shop, events_worker):
        until(lambda: count(shop, "event") == rows, "the events to be there again")

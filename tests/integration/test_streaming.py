"""Updates and events through the real broker, Triton, feature store and database: nothing lost, nothing stale.

One installation for all tests; each has products of its own. Consumers run as threads, or, where they are killed, as
the processes that `sagelift stream` starts.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

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
from sagelift.services import CATALOG_GROUP, EVENTS_GROUP
from sagelift.stack.kafka import KafkaBroker
from sagelift.stack.triton import TritonServer
from sagelift.workers import events_worker
from streaming.contracts import ERROR_HEADERS, Event, Price, ProductUpdate
from streaming.errors import TopicError
from streaming.events.conversion import to_row
from streaming.kafka.connection import TopicPartition
from streaming.kafka.lag import LagMeter
from streaming.kafka.producers import EventPublisher
from streaming.kafka.topic_admin import ensure_topics, log_id
from streaming.kafka.topics import CATALOG_UPDATES, EVENTS
from streaming.vectors.follower import IndexFollower
from tests.integration.shop import COLOURS, NOW, Shop, consuming, delete, patch, process, upsert
from tests.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def shop(
    tmp_path_factory: pytest.TempPathFactory, kafka: KafkaBroker, triton: TritonServer, model_repository: Path
) -> Iterator[Shop]:
    shop = Shop(tmp_path_factory.mktemp("shop"), kafka, triton, model_repository)
    ensure_topics(shop.services.kafka)
    yield shop
    shop.services.close()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Link to a picture, by colour."""
    folder = tmp_path_factory.mktemp("pictures")
    for name, colour in COLOURS.items():
        Image.new("RGB", (64, 48), colour).save(folder / f"{name}.png")
    (folder / "broken.png").write_bytes(b"\x89PNG but no more")
    return {name: str(folder / f"{name}.png") for name in (*COLOURS, "broken")}


def test_a_catalogue_becomes_retrievable_and_follows_changes_and_deletions(
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
        assert headers[ERROR_HEADERS + "topic"] == CATALOG_UPDATES.encode()
        assert headers[ERROR_HEADERS + "consumer.group"] == CATALOG_GROUP.encode()
        assert headers[ERROR_HEADERS + "exception.class.name"] == b"ContractError"
        assert int(headers[ERROR_HEADERS + "offset"]) >= 0
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
    assert headers[ERROR_HEADERS + "exception.class.name"] == b"CorruptRecordError"
    assert f"-{headers[ERROR_HEADERS + 'partition'].decode()}" == damaged[0].parent.name[-2:]
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


def test_a_killed_consumer_has_the_same_result_as_an_undisturbed_one(shop: Shop, pictures: dict[str, str]) -> None:
    shop.publish(*story("calm-", pictures, 150))
    with consuming(shop):
        shop.caught_up()
    stream = story("storm-", pictures, 150)
    shop.publish(*stream)
    before = shop.lag()
    with process(shop, "catalog") as consumer:
        wait_until(lambda: bool(shop.state_ids("storm-")), "the first products of the storm", timeout_s=60)
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
        admin.create_topics([NewTopic("created.again", 1, 1)])
        first = log_id(shop.services.kafka, "created.again")
        assert log_id(shop.services.kafka, "created.again") == first
        admin.delete_topics(["created.again"])
        wait_until(lambda: "created.again" not in admin.list_topics(), "the topic to be gone")
        admin.create_topics([NewTopic("created.again", 1, 1)])
        second = log_id(shop.services.kafka, "created.again")
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
        wait_until(lambda: count(shop, "sink_offset") > 0, "the first transaction", timeout_s=60)
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
    """A database that was restored from a backup is filled again, even if the group has committed later offsets."""
    shop.caught_up(EVENTS_GROUP, EVENTS)
    rows = count(shop, "event")
    with shop.services.database.begin() as connection:
        connection.execute(text("delete from event"))
        connection.execute(text("delete from sink_offset"))
    with consuming(shop, events_worker):
        wait_until(lambda: count(shop, "event") == rows, "the events to be there again")

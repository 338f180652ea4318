"""Dead letters on a real broker: listed, shown, and replayed once each, even if a replay is killed or overtaken.

The module has its own broker, because other tests count their letters. Each test has its own keys.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from sqlalchemy import text
from typer.testing import CliRunner

from experiments.config import Arm, ExperimentConfig
from sagelift.commands.dlq import app
from sagelift.services import Services
from sagelift.settings import load_settings
from sagelift.stack.kafka import KafkaBroker
from sagelift.workers import events_worker
from streaming.contracts import ERROR_HEADERS, Event
from streaming.dead_letters.letters import LetterFilter, LetterId, readable
from streaming.dead_letters.reader import DeadLetterReader
from streaming.dead_letters.replay import replaying
from streaming.dead_letters.replay_log import ReplayLog
from streaming.dead_letters.replay_plan import SkipReason, plan
from streaming.dead_letters.writer import DeadLetterWriter, FailedRecord
from streaming.errors import DeadLetterError, TopicError
from streaming.kafka.connection import KafkaConsumer, TopicPartition
from streaming.kafka.lag import LagMeter
from streaming.kafka.producers import EventPublisher
from streaming.kafka.topic_admin import ensure_topics
from streaming.kafka.topics import CATALOG_UPDATES, EVENTS, REPLAYED
from tests.streaming.builders import Record
from tests.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

NOW = datetime.now(UTC).replace(microsecond=0)
LETTERS = f"{CATALOG_UPDATES}.dlq"


class Shop:
    """An installation whose commands run in this process, or in one that can be killed."""

    def __init__(self, state: Path, broker: KafkaBroker) -> None:
        self.environment = {
            "SAGELIFT_STATE_DIR": str(state),
            "SAGELIFT_KAFKA__BOOTSTRAP_SERVERS": broker.bootstrap,
        }
        self.settings = load_settings(state_dir=state, kafka={"bootstrap_servers": broker.bootstrap})
        self.services = Services(self.settings)
        self.kafka = self.services.kafka
        self.producer = self.services.producer()

    def run(self, *arguments: object, code: int = 0) -> Result:
        done = CliRunner().invoke(app, [str(a) for a in arguments], env=self.environment)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == code, done.output
        return done

    def listed(self, *arguments: object) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.run("list", "--json", *arguments).stdout.splitlines()]

    def replayed(self, *arguments: object, code: int = 0) -> dict[str, Any]:
        return dict(json.loads(self.run("replay", "--json", *arguments, code=code).stdout))

    def write(self, *records: Record, stage: str = "decode", message: str = "title: too long") -> None:
        """Dead letters, as a consumer writes them."""
        letters = [FailedRecord(record, stage, "ContractError", message) for record in records]
        DeadLetterWriter(self.producer, "g").send_all(letters)

    def read(self, topic: str, prefix: bytes = b"") -> list[Any]:
        """All records of a topic whose keys have this prefix."""
        consumer: KafkaConsumer = self.kafka.consumer()
        results: list[Any] = []
        try:
            partitions = [TopicPartition(topic, p) for p in consumer.partitions_for_topic(topic)]
            ends = consumer.end_offsets(partitions)
            consumer.assign(partitions)
            consumer.seek_to_beginning(*partitions)
            while any(consumer.position(tp) < end for tp, end in ends.items()):
                results += [r for rows in consumer.poll(300).values() for r in rows]
        finally:
            consumer.close()
        return [r for r in results if (r.key or b"").startswith(prefix)]


@pytest.fixture(scope="module")
def broker(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    with KafkaBroker(tmp_path_factory.mktemp("kafka"), cache) as broker:
        yield broker


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, broker: KafkaBroker) -> Iterator[Shop]:
    shop = Shop(tmp_path_factory.mktemp("shop"), broker)
    with pytest.raises(TopicError, match=r"catalog\.updates\.dlq does not exist; the consumers create"):
        shop.run("list")
    ensure_topics(shop.kafka)
    yield shop
    shop.services.close()


@contextmanager
def consuming_events(shop: Shop) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=events_worker, args=(shop.settings, stop))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)
    assert not thread.is_alive()


def exposure(unit: str, experiment: str) -> Event:
    return Event(
        event_id=f"{unit}-{experiment}",
        kind="exposure",
        unit_id=unit,
        event_time=NOW,
        experiment=experiment,
        arm="a",
        config_version=1,
    )


def test_a_repaired_cause_lets_the_replay_succeed_and_a_second_failure_counts_on(shop: Shop) -> None:
    def enrolled() -> list[str]:
        with shop.services.database.connect() as connection:
            return list(connection.execute(text("select unit_id from exposure")).scalars())

    store = shop.services.experiments
    with consuming_events(shop):
        with EventPublisher(shop.kafka) as publisher:
            publisher.send(exposure("repaired", "later"))
            publisher.send(exposure("hopeless", "never"))
        wait_until(lambda: len(shop.listed("--topic", EVENTS)) == 2, "both dead letters")
        first = {letter["key"]: letter for letter in shop.listed("--topic", EVENTS, "--stage", "store")}
        assert set(first) == {"repaired", "hopeless"}
        assert enrolled() == []

        store.create_experiment("later", actor="test")
        arms = (Arm("a", 5000), Arm("b", 5000))
        store.publish(ExperimentConfig(key="later", salt="s", coverage=10_000, arms=arms, control="a"), actor="test")
        store.transition("later", "running", actor="test", reason="test")
        assert shop.replayed("--topic", EVENTS, "--stage", "store") == {"replayed": 2, "skipped": {}, "dry_run": False}

        wait_until(lambda: enrolled() == ["repaired"], "the exposure in the database")
        wait_until(lambda: len(shop.listed("--topic", EVENTS)) == 3, "the second failure")
    again, *_ = shop.listed("--topic", EVENTS)
    assert (again["key"], again["attempts"], again["replayed"]) == ("hopeless", 2, False)
    assert again["first_time"] == first["hopeless"]["first_time"]
    assert again["time"] > first["hopeless"]["time"]
    assert (again["partition"], again["offset"]) != (first["hopeless"]["partition"], first["hopeless"]["offset"])
    headers = [name for name, _ in json.loads(shop.run("show", "--json", again["id"]).stdout)["headers"]]
    assert len(headers) == len(set(headers)), "replaced, never doubled"
    # What has failed twice is left alone; the first two were replayed before.
    already = {"replayed": 0, "skipped": {"already replayed": 2}, "dry_run": False}
    assert shop.replayed("--topic", EVENTS, "--max-attempts", 1) == already


def test_letters_are_listed_newest_first_and_filtered(shop: Shop) -> None:
    for n in range(10):
        shop.write(
            Record(partition=2, offset=n, key=f"list-{n % 5}".encode(), value=b"x"),
            stage="decode" if n % 2 else "image",
            message=f"price.amount: -{n} must be at least 0" if n % 2 else f"http://h/{n}.png: 404 Not Found",
        )
    shop.write(Record(topic=EVENTS, key=b"list-0"), message="kind: must be one")
    keys = [option for n in range(5) for option in ("--key", f"list-{n}")]
    letters = shop.listed(*keys)
    assert [letter["offset"] for letter in letters] == [0, *range(9, -1, -1)]
    with DeadLetterReader(shop.kafka) as reader:  # several windows, though there are only a few letters
        newest = reader.newest(LetterFilter(keys=keys[1::2]), 3, window=3)
    assert [str(letter.id) for letter in newest] == [letter["id"] for letter in letters[:3]]
    assert [letter["topic"] for letter in letters] == [EVENTS, *[CATALOG_UPDATES] * 10]
    assert letters[1].items() >= {
        "partition": 2, "key": "list-4", "stage": "decode", "error": "ContractError", "attempts": 1,
        "message": "price.amount: -9 must be at least 0", "consumer_group": "g", "replayed": False,
    }.items()  # fmt: skip
    catalog = [*keys, "--topic", CATALOG_UPDATES]
    assert [letter["offset"] for letter in shop.listed(*catalog, "--limit", 4)] == [9, 8, 7, 6]
    assert [letter["offset"] for letter in shop.listed(*catalog, "--stage", "image")] == [8, 6, 4, 2, 0]
    assert [letter["offset"] for letter in shop.listed(*catalog, "--match", "NOT FOUND", "--key", "x")] == [
        8,
        6,
        4,
        2,
        0,
    ]
    assert [letter["offset"] for letter in shop.listed("--key", "list-3")] == [8, 3]
    assert shop.listed(*keys, "--error", "ImageError") == []
    times = [datetime.fromisoformat(letter["time"]) for letter in letters]
    middle = times[5].isoformat()
    assert [letter["id"] for letter in shop.listed(*keys, "--since", middle)] == [
        letter["id"] for letter, at in zip(letters, times, strict=True) if at >= times[5]
    ]
    assert [letter["id"] for letter in shop.listed(*keys, "--until", middle)] == [
        letter["id"] for letter, at in zip(letters, times, strict=True) if at < times[5]
    ]
    assert shop.listed(*keys, "--since", "2100-01-01") == []

    table = shop.run("list", *catalog, "--limit", 2).stdout.splitlines()
    assert table[0].split() == ["ID", "TIME", "(UTC)", "STAGE", "ERROR", "KEY", "TRIES", "REPLAYED", "MESSAGE"]
    assert [line.split()[0] for line in table[1:]] == [letter["id"] for letter in letters[1:3]]
    causes = [json.loads(line) for line in shop.run("list", *keys, "--summary", "--json").stdout.splitlines()]
    assert [(c["letters"], c["stage"], c["message"]) for c in causes] == [
        (5, "decode", "price.amount: … must be at least …"),
        (5, "image", "… … Not Found"),
        (1, "decode", "kind: must be one"),
    ]
    assert causes[0]["newest"] == letters[1]["id"]


def test_a_letter_is_shown_with_its_bytes_escaped_for_the_terminal(shop: Shop) -> None:
    poison = b'{"id": "\x1b[2J\xff'
    shop.write(
        Record(partition=1, offset=5, key=b"show-\x1b[31m", value=poison, headers=[("traceparent", b"00-1")]),
        Record(key=b"show-text", value='{"title": "Tür\u202e"}\nmore'.encode()),
        Record(key=b"show-null", value=None),
        message="not JSON: \x1b[0m",
    )
    null, plain, binary = (letter["id"] for letter in shop.listed("--limit", 3))
    assert shop.run("show", binary, "--raw").stdout_bytes == poison
    said = shop.run("show", binary).stdout
    assert "\x1b" not in said
    assert r"not JSON: \x1b[0m" in said
    assert "came from  catalog.updates/1:5, read by g" in said
    assert "  traceparent: 00-1\n" in said
    assert f"message ({len(poison)} bytes)\n0x{poison.hex()}\n" in said
    assert '{"title": "Tür\\u202e"}\nmore\n' in shop.run("show", plain).stdout
    assert "\x1b" not in shop.run("list", "--limit", 3).stdout
    assert shop.run("show", null, "--raw").stdout_bytes == b""
    assert "has no value (null)" in shop.run("show", null).stdout


def test_a_missing_letter_is_named(shop: Shop) -> None:
    shop.write(Record(key=b"missing"))
    id = LetterId.parse(shop.listed("--limit", 1)[0]["id"])
    for wrong, said in [
        (id._replace(offset=id.offset + 1000), f"holds offsets 0 to {id.offset}; the broker deletes letters"),
        (id._replace(partition=7), r"catalog\.updates\.dlq has no partition 7"),
        (
            id._replace(topic="orders.dlq"),
            r"orders\.dlq is not a dead-letter topic; the topics are catalog\.updates\.dlq",
        ),
    ]:
        with pytest.raises(DeadLetterError, match=said):
            shop.run("show", wrong)
        before = len(shop.read(CATALOG_UPDATES, b"missing"))
        with pytest.raises(DeadLetterError, match=said):
            shop.run("replay", id, wrong)
        assert len(shop.read(CATALOG_UPDATES, b"missing")) == before, "nothing is sent when one of the ids is wrong"


def test_a_replay_sends_the_original_once_and_a_second_time_only_with_again(shop: Shop) -> None:
    own = [("sagelift-schema", b"1"), ("traceparent", b"00-1")]
    shop.write(
        Record(key=b"once-\xff", value=b'{"id"', headers=own),
        Record(key=b"once-2", value=None, headers=own),
        Record(key=b"once-3", value=b""),
    )
    ids = [letter["id"] for letter in shop.listed("--limit", 3)][::-1]

    assert shop.replayed(*ids, "--dry-run") == {"replayed": 3, "skipped": {}, "dry_run": True}
    assert shop.read(CATALOG_UPDATES, b"once") == []
    assert len(shop.listed("--open", "--limit", 3)) == 3
    assert shop.replayed(*ids, "--limit", 1)["replayed"] == 1
    assert shop.replayed(*ids) == {"replayed": 2, "skipped": {"already replayed": 1}, "dry_run": False}
    assert shop.replayed(*ids) == {"replayed": 0, "skipped": {"already replayed": 3}, "dry_run": False}

    sent = sorted(shop.read(CATALOG_UPDATES, b"once"), key=lambda r: r.key)
    assert [(r.key, r.value) for r in sent] == [(b"once-2", None), (b"once-3", b""), (b"once-\xff", b'{"id"')]
    for record in sent:
        headers = dict(record.headers)
        first = headers.pop(ERROR_HEADERS + "first.time")
        assert datetime.fromisoformat(first.decode()) >= NOW
        assert headers.pop(ERROR_HEADERS + "attempts") == b"1"
        assert list(headers.items()) == (own if record.key != b"once-3" else [])
    place = f"{sent[2].topic}/{sent[2].partition}:{sent[2].offset}"
    assert f" as {place}\n" in shop.run("show", ids[0]).stdout
    assert not {letter["id"] for letter in shop.listed("--open")} & set(ids)

    assert shop.replayed(*ids, "--again")["replayed"] == 3
    assert len(shop.read(CATALOG_UPDATES, b"once")) == 6


def test_a_cut_letter_is_replayed_whole_while_its_original_exists(shop: Shop) -> None:
    large = b'{"id": "cut-1", "title": "' + b"x" * 3_000_000
    producer = shop.producer
    at = producer.send(CATALOG_UPDATES, key=b"cut-1", value=large).get(10)
    gone = producer.send(CATALOG_UPDATES, key=b"cut-1", value=large + b"y").get(10)
    shop.write(
        Record(partition=at.partition, offset=at.offset, key=b"cut-1", value=large),
        Record(partition=gone.partition, offset=gone.offset + 100, key=b"cut-1", value=large),
        Record(partition=at.partition, offset=at.offset, key=b"cut-1", value=large + b"longer"),
    )
    DeadLetterWriter(producer, "g").send_unreadable(TopicPartition(CATALOG_UPDATES, 0), 3, ValueError("crc"))
    unreadable, other, missing, cut = (letter["id"] for letter in shop.listed("--limit", 4))
    assert shop.run("show", cut, "--raw").stdout_bytes == large
    shown = shop.run("show", missing, "--raw", code=1)
    assert 1_900_000 < len(shown.stdout_bytes) < 2_000_000
    assert large.startswith(shown.stdout_bytes)

    done = shop.run("replay", cut, missing, other, unreadable, code=1)
    assert "1 replayed, 3 skipped" in done.stdout
    assert f"  2: {SkipReason.ORIGINAL_GONE}" in done.stdout
    assert f"{unreadable} is skipped: {SkipReason.UNREADABLE}" in done.stderr
    assert [r.value for r in shop.read(CATALOG_UPDATES, b"cut-1")] == [large, large + b"y", large]
    last = shop.read(CATALOG_UPDATES, b"cut-1")[-1]
    assert {name for name, _ in last.headers} == {ERROR_HEADERS + "attempts", ERROR_HEADERS + "first.time"}


def written(shop: Shop, prefix: str, count: int) -> None:
    shop.write(*(Record(key=f"{prefix}{n}".encode(), value=b"{", offset=n) for n in range(count)), message=prefix)


def test_a_replay_that_is_killed_is_continued_with_few_messages_sent_twice(shop: Shop) -> None:
    written(shop, "kill-", 120)
    with LagMeter(shop.kafka, "g", CATALOG_UPDATES) as meter:
        before = meter.end()
    command = [sys.executable, "-m", "sagelift", "dlq", "replay", "--match", "kill-", "--rate", "25"]
    started = subprocess.Popen(command, env={**os.environ, **shop.environment}, stderr=subprocess.PIPE)
    try:
        with LagMeter(shop.kafka, "g", CATALOG_UPDATES) as meter:
            wait_until(lambda: meter.end() > before + 30, "the second batch")
        started.send_signal(signal.SIGKILL)
        started.wait(10)
    finally:
        started.kill()
        started.communicate()
    sent = len(shop.read(CATALOG_UPDATES, b"kill-"))
    assert 30 < sent < 120, "killed in the middle"
    result = shop.replayed("--match", "kill-", "--rate", 1000)
    remembered = result["skipped"]["already replayed"]
    assert result["replayed"] + remembered == 120
    assert sent - 25 <= remembered <= sent, "not remembered is only what a second sends"
    copies = Counter(record.key for record in shop.read(CATALOG_UPDATES, b"kill-"))
    assert len(copies) == 120
    assert sum(copies.values()) == sent + result["replayed"]
    assert max(copies.values()) <= 2


def test_a_replay_stops_when_another_one_starts(shop: Shop) -> None:
    """Of two concurrent replays the later one continues, and at most one batch is sent twice."""
    written(shop, "two-", 40)

    def keys(letters: Sequence[Any]) -> Counter[str]:
        return Counter(readable(letter.key) for letter in letters)

    with DeadLetterReader(shop.kafka) as mine, replaying(shop.kafka, mine, rate=10) as first:
        meant = list(mine.letters(lambda letter: letter.message == "two-"))
        first.run(plan(meant[:20], mine.original, first.log))
        assert shop.replayed("--match", "two-")["replayed"] == 20
        with pytest.raises(DeadLetterError, match=r"another replay was started .* stopped after 20 letters"):
            first.run(plan(meant[20:], mine.original, first.log))
    copies = keys(shop.read(CATALOG_UPDATES, b"two-"))
    assert len(copies) == 40
    assert sum(copies.values()) <= 50
    assert shop.replayed("--match", "two-") == {"replayed": 0, "skipped": {"already replayed": 40}, "dry_run": False}


def test_deleted_letters_leave_the_log_and_a_topic_created_again_starts_empty(shop: Shop) -> None:
    """Last: it empties the topic. Without the log's id, the new topic's letters would pass for replayed ones."""
    written(shop, "old-", 5)
    shop.replayed("--match", "old-")
    admin, tp = shop.kafka.admin(), TopicPartition(LETTERS, 0)
    try:
        with DeadLetterReader(shop.kafka) as reader:
            end = reader.end[tp]
            assert LetterId(LETTERS, 0, end - 1) in ReplayLog(shop.kafka, reader)
        admin.delete_records({tp: end})
        written(shop, "young-", 1)
        shop.replayed("--match", "young-")
        tombstones = {r.key for r in shop.read(REPLAYED) if r.value is None}
        with DeadLetterReader(shop.kafka) as reader:
            log = ReplayLog(shop.kafka, reader)
            assert LetterId(LETTERS, 0, end) in log
            assert LetterId(LETTERS, 0, end - 1) not in log
            assert tombstones >= {log.key(LetterId(LETTERS, 0, end - n)) for n in (1, 5)}
            assert log.take_outdated() == [], "what has a tombstone needs no other"

        admin.delete_topics([LETTERS])
        wait_until(lambda: LETTERS not in admin.list_topics(), "the topic to be gone")
        ensure_topics(shop.kafka)
        written(shop, "new-", end + 1)
        assert shop.replayed("--match", "new-", "--rate", 10_000)["replayed"] == end + 1
    finally:
        admin.close()

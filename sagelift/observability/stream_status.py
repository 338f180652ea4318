"""The status of all consumers for `sagelift stream status`: their own answers, and the lags that the broker knows.

`collect` asks the consumers, `ask_broker` asks the broker, and `summarize` combines two collections into rows and
problems. `stream_table` prints the result.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from sagelift.observability.scrape import Samples, buckets, counts_by, parse, quantile, recent_buckets, total
from sagelift.services import CATALOG_GROUP, EVENTS_GROUP, Services
from sagelift.settings import Settings
from sagelift.stack.worker_records import WorkerRecord, read_records

Fetch = Callable[[str], tuple[dict[str, Any], str]]
"""Asks the consumer at a URL; see `scrape.fetch`."""


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """One consumer at one time.

    Attributes:
        name: Name of the consumer, or its URL if the name is unknown.
        where: Its URL.
        at: Time of the observation, in seconds of a monotonic clock.
        readiness: Answer of `/readyz`; None if it did not answer.
        samples: Its metrics; None if it did not answer.
        ended: State and reason, if it did not answer.
        pid: Process id, if it runs on this machine.
    """

    name: str
    where: str
    at: float
    readiness: dict[str, Any] | None = None
    samples: Samples | None = None
    ended: tuple[str, str] | None = None
    pid: int | None = None


class WorkerRow(msgspec.Struct, frozen=True, kw_only=True):
    """One consumer in the status. Durations are in seconds.

    Rates cover the time between two observations. Percentiles cover the same time; if nothing happened in it, they
    cover the time since the consumer's start.

    Attributes:
        name: Name of the consumer.
        where: Its URL.
        pid: Process id, if it runs on this machine.
        state: Health state, or `silent` or `down` if it does not answer.
        reason: Why it is in this state.
        well: Whether it is ready.
        partitions: Partitions that it reads.
        lag: Records of its partitions that are not committed; None if unknown.
        in_flight: Records that it has read and not finished.
        records_per_s: Rate; None at the first observation.
        freshness_p50_s: Median time from a record's arrival in Kafka to its effect.
        freshness_p99_s: 99th percentile of it.
        records_per_batch: Mean size of its batches.
        retries: Failed attempts by stage and reason.
        dead_letters: Dead letters by stage.
    """

    name: str
    where: str
    pid: int | None = None
    state: str
    reason: str = ""
    well: bool
    partitions: list[int] = []
    lag: int | None = None
    in_flight: int | None = None
    records_per_s: float | None = None
    freshness_p50_s: float | None = None
    freshness_p99_s: float | None = None
    records_per_batch: float | None = None
    retries: dict[str, int] = {}
    dead_letters: dict[str, int] = {}


class TopicRow(msgspec.Struct, frozen=True, kw_only=True):
    """One consumer group on its topic, as the broker knows it.

    Attributes:
        topic: Topic.
        group: Consumer group.
        lag: Records that the group has not committed; None if the broker does not answer.
        problem: Why the lag is unknown.
    """

    topic: str
    group: str
    lag: int | None = None
    problem: str = ""


class StreamStatus(msgspec.Struct, frozen=True):
    """The status of all consumers; `problems` is empty if they are healthy."""

    topics: list[TopicRow]
    workers: list[WorkerRow]
    problems: list[str]

    @property
    def healthy(self) -> bool:
        """Whether there is no problem."""
        return not self.problems


def collect(settings: Settings, urls: Sequence[str], fetch: Fetch) -> list[Observation]:
    """Ask the consumers with a record in the state folder, and those at `urls`.

    Args:
        settings: Settings with the state folder.
        urls: URLs of consumers on other machines.
        fetch: Asks one consumer.
    """
    records = read_records(settings.state)
    local = {record.url for record in records}
    return [_ask(record.name, record.url, fetch, record) for record in records] + [
        _ask("", url.rstrip("/"), fetch, None) for url in urls if url.rstrip("/") not in local
    ]


def ask_broker(settings: Settings) -> list[TopicRow]:
    """Return the lag of each consumer group."""
    from sagelift.errors import SageliftError
    from streaming.errors import StreamingError
    from streaming.kafka.lag import LagMeter
    from streaming.kafka.topics import CATALOG_UPDATES, EVENTS

    rows = []
    with Services(settings) as services:
        for group, topic in ((CATALOG_GROUP, CATALOG_UPDATES), (EVENTS_GROUP, EVENTS)):
            try:
                with LagMeter(services.kafka, group, topic) as meter:
                    rows.append(TopicRow(topic=topic, group=group, lag=meter.lag()))
            except (StreamingError, SageliftError) as error:
                rows.append(TopicRow(topic=topic, group=group, problem=str(error)))
    return rows


def summarize(topics: Sequence[TopicRow], before: Sequence[Observation], now: Sequence[Observation]) -> StreamStatus:
    """Combine the broker's lags with two collections, one shortly after the other."""
    earlier = {(observed.where, observed.pid): observed for observed in before}
    workers = [to_row(earlier.get((observed.where, observed.pid)), observed) for observed in now]
    problems = [f"{topic.topic}: {topic.problem}" for topic in topics if topic.problem]
    problems += [f"{w.name}{f' ({w.pid})' if w.pid else ''} is {w.state}: {w.reason}" for w in workers if not w.well]
    if not workers:
        problems.append(
            "no consumer is known here: start `sagelift up`, or `sagelift stream catalog` and `sagelift stream events`"
        )
    return StreamStatus(list(topics), workers, problems)


def to_row(before: Observation | None, now: Observation) -> WorkerRow:
    """Return the row of one consumer, from its answers before and now."""
    common: dict[str, Any] = {"name": now.name, "where": now.where, "pid": now.pid}
    if now.readiness is None or now.samples is None:
        state, reason = now.ended or ("silent", "")
        return WorkerRow(**common, state=state, reason=reason, well=False)
    samples, old = now.samples, before.samples if before is not None else None
    records = total(samples, "sagelift_records_total")
    batch_sizes = buckets(samples, "sagelift_batch_records")
    batches = batch_sizes[-1][1] if batch_sizes else 0.0
    freshness = recent_buckets(samples, old, "sagelift_freshness_seconds")
    lag = samples.get("sagelift_lag_records")
    return WorkerRow(
        **common,
        state=str(now.readiness.get("state")),
        reason=str(now.readiness.get("reason") or ""),
        well=bool(now.readiness.get("ok")),
        partitions=list(now.readiness.get("partitions", ())),
        lag=int(sum(value for _, value in lag)) if lag else None,
        in_flight=int(total(samples, "sagelift_in_flight_records")),
        records_per_s=_rate(records, before, now),
        freshness_p50_s=quantile(freshness, 0.5),
        freshness_p99_s=quantile(freshness, 0.99),
        records_per_batch=total(samples, "sagelift_batch_records_sum") / batches if batches else None,
        retries=counts_by(samples, "sagelift_retries_total", "stage", "reason"),
        dead_letters=counts_by(samples, "sagelift_dead_letters_total", "stage"),
    )


def _ask(name: str, url: str, fetch: Fetch, record: WorkerRecord | None) -> Observation:
    observed = Observation(name=name or url, where=url, at=time.monotonic(), pid=None if record is None else record.pid)
    if record is not None and not record.running:
        ended = record.ended or ("down", "its process was killed, or its machine was restarted")
        return msgspec.structs.replace(observed, ended=ended)
    try:
        readiness, text = fetch(url)
        samples = parse(text)
    except (OSError, ValueError) as error:
        return msgspec.structs.replace(observed, ended=("silent", f"it does not answer at {url}: {error}"))
    return msgspec.structs.replace(
        observed, name=name or str(readiness.get("consumer", url)), readiness=readiness, samples=samples
    )


def _rate(records: float, before: Observation | None, now: Observation) -> float | None:
    """Return records per second since `before`; None without it, or if the counter was reset by a restart."""
    if before is None or before.samples is None or now.at <= before.at:
        return None
    grown = records - total(before.samples, "sagelift_records_total")
    return grown / (now.at - before.at) if grown >= 0 else None

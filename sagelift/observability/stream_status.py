"""How the consumers are, for `sagelift stream status`: what each says of itself, and the broker of them all."""

from __future__ import annotations

import json
import math
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from sagelift.observability.metrics import quantile
from sagelift.services import Services
from sagelift.settings import Settings
from sagelift.stack.worker_records import WorkerRecord, read_records

if TYPE_CHECKING:
    from rich.console import RenderableType

_TIMEOUT_S = 2.0
_NUMBERS = ("LAG", "REC/S", "P50", "P99", "BATCH", "IN FLIGHT")

Samples = Mapping[str, Sequence[tuple[Mapping[str, str], float]]]
"""By metric name: labels and value of each of its samples."""


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """One consumer at one moment. `told` and `samples` are what it answered; None: it does not answer."""

    name: str
    where: str
    at: float
    told: dict[str, Any] | None = None
    samples: Samples | None = None
    ended: tuple[str, str] | None = None
    pid: int | None = None


class WorkerRow(msgspec.Struct, frozen=True, kw_only=True):
    """One consumer, as it is shown. Rates and percentiles are of the time between two looks where something happened
    in it, percentiles else of all since its start. Seconds and records."""

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
    """One consumer group on its topic, as the broker has it; `lag` None: the broker does not say, `problem` why."""

    topic: str
    group: str
    lag: int | None = None
    problem: str = ""


class StreamStatus(msgspec.Struct, frozen=True):
    """All of it; `problems` is empty when all is well."""

    topics: list[TopicRow]
    workers: list[WorkerRow]
    problems: list[str]

    @property
    def healthy(self) -> bool:
        return not self.problems


# ------------------------------------------------------------------------------------------------------- looking


def look(settings: Settings, urls: Sequence[str], fetch: Callable[[str], tuple[dict[str, Any], str]]) -> list[Seen]:
    """Ask the consumers whose files are in the state folder, and those at `urls`."""
    records = read_records(settings.state)
    here = {record.url for record in records}
    return [_ask(record.name, record.url, fetch, record) for record in records] + [
        _ask("", url.rstrip("/"), fetch, None) for url in urls if url.rstrip("/") not in here
    ]


def fetch(url: str) -> tuple[dict[str, Any], str]:
    """What `/readyz` and `/metrics` answer. Raises OSError or ValueError."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # it is on this machine, or near it

    def get(path: str) -> str:
        try:
            with opener.open(url + path, timeout=_TIMEOUT_S) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as error:
            if error.code != 503:
                raise
            return str(error.read().decode())

    told = json.loads(get("/readyz"))
    if not isinstance(told, dict):
        raise ValueError(f"{url}/readyz is not one of ours")
    return told, get("/metrics")


def parse(text: str) -> Samples:
    """Prometheus' text format."""
    from prometheus_client.parser import text_string_to_metric_families

    found: dict[str, list[tuple[Mapping[str, str], float]]] = defaultdict(list)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name].append((sample.labels, sample.value))
    return found


def _ask(name: str, url: str, fetch: Callable[[str], tuple[dict[str, Any], str]], record: WorkerRecord | None) -> Seen:
    seen = Seen(name=name or url, where=url, at=time.monotonic(), pid=None if record is None else record.pid)
    if record is not None and not record.running:
        ended = record.ended or ("down", "its process was killed, or its machine was restarted")
        return msgspec.structs.replace(seen, ended=ended)
    try:
        told, text = fetch(url)
        samples = parse(text)
    except (OSError, ValueError) as error:
        return msgspec.structs.replace(seen, ended=("silent", f"it does not answer at {url}: {error}"))
    return msgspec.structs.replace(seen, name=name or str(told.get("consumer", url)), told=told, samples=samples)


def ask_broker(settings: Settings) -> list[TopicRow]:
    """How far each consumer group is behind."""
    from sagelift.errors import SageliftError
    from sagelift.services import CATALOG_GROUP, EVENTS_GROUP
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


# -------------------------------------------------------------------------------------------------- understanding


def status(topics: Sequence[TopicRow], before: Sequence[Seen], now: Sequence[Seen]) -> StreamStatus:
    """What two looks say, one shortly after the other."""
    earlier = {(seen.where, seen.pid): seen for seen in before}
    workers = [to_row(earlier.get((seen.where, seen.pid)), seen) for seen in now]
    problems = [f"{topic.topic}: {topic.problem}" for topic in topics if topic.problem]
    problems += [f"{w.name}{f' ({w.pid})' if w.pid else ''} is {w.state}: {w.reason}" for w in workers if not w.well]
    if not workers:
        problems.append("no consumer is known here: start `sagelift up`, or `sagelift stream catalog` and `... events`")
    return StreamStatus(list(topics), workers, problems)


def to_row(before: Seen | None, now: Seen) -> WorkerRow:
    """One consumer, from what it said before and now."""
    common: dict[str, Any] = {"name": now.name, "where": now.where, "pid": now.pid}
    if now.told is None or now.samples is None:
        state, reason = now.ended or ("silent", "")
        return WorkerRow(**common, state=state, reason=reason, well=False)
    samples, old = now.samples, before.samples if before is not None else None
    done, batches = _total(samples, "sagelift_records_total"), _buckets(samples, "sagelift_batch_records")
    size = _total(samples, "sagelift_batch_records_sum"), batches[-1][1] if batches else 0.0
    fresh = _recent(samples, old, "sagelift_freshness_seconds")
    lag = samples.get("sagelift_lag_records")
    return WorkerRow(
        **common,
        state=str(now.told.get("state")),
        reason=str(now.told.get("reason") or ""),
        well=bool(now.told.get("ok")),
        partitions=list(now.told.get("partitions", ())),
        lag=int(sum(value for _, value in lag)) if lag else None,
        in_flight=int(_total(samples, "sagelift_in_flight_records")),
        records_per_s=_rate(done, None if old is None else _total(old, "sagelift_records_total"), before, now),
        freshness_p50_s=quantile(fresh, 0.5),
        freshness_p99_s=quantile(fresh, 0.99),
        records_per_batch=size[0] / size[1] if size[1] else None,
        retries=_by(samples, "sagelift_retries_total", "stage", "reason"),
        dead_letters=_by(samples, "sagelift_dead_letters_total", "stage"),
    )


def _rate(done: float, done_before: float | None, before: Seen | None, now: Seen) -> float | None:
    if before is None or done_before is None or now.at <= before.at or done < done_before:
        return None
    return (done - done_before) / (now.at - before.at)


def _total(samples: Samples, name: str) -> float:
    return sum(value for _, value in samples.get(name, ()))


def _by(samples: Samples, name: str, *labels: str) -> dict[str, int]:
    return {" ".join(found[label] for label in labels): int(value) for found, value in samples.get(name, ()) if value}


def _buckets(samples: Samples, name: str) -> list[tuple[float, float]]:
    return sorted((float(found["le"]), value) for found, value in samples.get(f"{name}_bucket", ()))


def _recent(samples: Samples, old: Samples | None, name: str) -> list[tuple[float, float]]:
    """A histogram's growth since `old`; all of it where there is none."""
    found = _buckets(samples, name)
    earlier = dict(_buckets(old, name)) if old is not None else {}
    grown = [(bound, count - earlier.get(bound, 0.0)) for bound, count in found]
    return grown if grown and grown[-1][1] > 0 else found


# ------------------------------------------------------------------------------------------------------- showing


def render(found: StreamStatus) -> RenderableType:
    """A table of the consumers, a line for each topic, and what is not well."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("CONSUMER", "PID", "STATE", "PARTITIONS", *_NUMBERS, "RETRIES", "DEAD LETTERS"):
        table.add_column(heading, justify="right" if heading in _NUMBERS else "left", overflow="fold")
    for row in found.workers:
        table.add_row(
            row.name,
            str(row.pid or "-"),
            Text(row.state, style="green" if row.well else "bold red"),
            _ranges(row.partitions) or "-",
            _number(row.lag),
            _number(row.records_per_s),
            _seconds(row.freshness_p50_s),
            _seconds(row.freshness_p99_s),
            _number(row.records_per_batch),
            _number(row.in_flight),
            _counts(row.retries),
            _counts(row.dead_letters),
        )
    shown: list[RenderableType] = [table, Text("")] if found.workers else []
    shown += [Text(f"{t.topic:<16} group {t.group:<18} lag {_number(t.lag)}") for t in found.topics]
    shown += [Text(f"! {problem}", style="bold red") for problem in found.problems]
    return Group(*shown)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 or float(value).is_integer() else f"{value:.1f}"


def _seconds(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "-"
    return f"{value * 1000:.0f} ms" if value < 10 else f"{value:,.0f} s"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items(), key=lambda c: -c[1])) or "-"


def _ranges(numbers: Iterable[int]) -> str:
    """0, 1, 2, 5 as "0-2 5"."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and parts[-1][-1] == number - 1:
            parts[-1][1:] = [number]
        else:
            parts.append([number])
    return " ".join("-".join(map(str, part)) for part in parts)

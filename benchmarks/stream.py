"""The catalogue consumer from Kafka to a retrievable vector: rates against a bare pipeline, freshness and memory.

A real broker, a real Triton with ItemSage at full size (random weights), and one consumer process per core, started
like `sagelift stream catalog`; all share this machine's cores. Texts are those of real products (../shared/data, if it
exists). Each full update mixes other texts, so it needs a new embedding. Category and price of a full update do not
change: only price updates change the filter attributes. Products link to 1 to 5 images that the store has already,
which costs a look-up and no download. Each product has one update per pass over the catalogue.

* `full_update_rate`: updates/s from the first to the last commit, at least 0.6 of the bare pipeline's: one process that
  decodes the same messages, tokenises, runs the same network on all cores, and writes message and vector with one
  SQLite transaction per batch.
* `full_update_cpu`: the same in CPU seconds of all processes, which other programs disturb less.
* `offer_update_rate`: price updates/s, at least 5 times the full ones.
* `freshness_*`: time from an update's arrival in Kafka until its vector is in a following index, at a quarter of the
  full rate; the 99th percentile must be at most 1 s.
* `rss_growth`: growth of the consumers' memory over a mixed stream (one update in five is full), after its first third.
  `--updates` is the length of that stream.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks._stream_catalogue import PRODUCTS
from benchmarks._stream_rig import Rig
from benchmarks.harness import Row, Say, compared, figure
from inference.retrieval import RetrievalIndex
from streaming.kafka.topics import CATALOG_UPDATES
from streaming.vectors.follower import IndexFollower

RUNS = 5
OFFER_PASSES = 6  # takes about as long as one pass of full updates, so filling and draining weigh the same
FRESHNESS_S = 15.0
UPDATES = 60_000


def rows(say: Say, updates: int = UPDATES) -> list[Row]:
    """Measure all figures.

    Args:
        say: Shows progress.
        updates: Length of the stream for the memory.
    """
    with tempfile.TemporaryDirectory(prefix="sagelift-stream-") as folder, Rig(Path(folder), say) as rig:
        say("first pass over the catalogue, uncounted")
        rig.drain(rig.catalogue.full(1))
        rate = PRODUCTS / rig.drain(rig.catalogue.full(1))
        rig.drain(rig.catalogue.offers(1))
        fresh = _freshness(rig, rate / 4, say)
        return [*_rates(rig, say), *fresh, _memory(rig, updates, say)]


def _rates(rig: Rig, say: Say) -> list[Row]:
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
        say(f"run {run + 1} of {RUNS}: " + ", ".join(f"{name} {values[-1]:.0f}" for name, values in taken.items()))
    return [
        compared("full_update_rate", "1/s", taken["full"], "in_process_pipeline", taken["floor"], at_least=0.6),
        compared("full_update_cpu", "us", taken["full_cpu"], "in_process_pipeline", taken["floor_cpu"]),
        compared("offer_update_rate", "1/s", taken["offers"], "full_update_rate", taken["full"], at_least=5.0),
    ]


def _freshness(rig: Rig, rate: float, say: Say) -> list[Row]:
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


def _memory(rig: Rig, updates: int, say: Say) -> Row:
    say(f"memory over {updates} updates")
    samples: list[tuple[float, float]] = []
    before, sent = rig.committed(), 0
    while sent < updates:
        # In parts, so that the backlog on the topic stays small.
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

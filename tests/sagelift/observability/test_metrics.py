"""Counts are exported under their documented names, and nothing that a sender chooses becomes a label."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client.exposition import generate_latest

from inference.triton.circuit import CircuitState
from sagelift.observability.health import HealthState
from sagelift.observability.metrics import LiveValues, WorkerMetrics
from sagelift.observability.scrape import parse

LIVE = LiveValues(HealthState.RUNNING, 2, {0: 5, 1: 7}, 12, 0.25, 1_000.0, CircuitState.CLOSED)


def metrics(live: LiveValues = LIVE) -> WorkerMetrics:
    return WorkerMetrics("catalog", "1.2", lambda: live)


def scraped(found: WorkerMetrics) -> dict[tuple[str, ...], float]:
    """Return the samples by name and the values of their labels, sorted by label."""
    samples = parse(generate_latest(found.registry).decode())
    return {
        (name, *(value for label, value in sorted(labels.items()) if label != "consumer")): number
        for name, found_of_name in samples.items()
        for labels, number in found_of_name
    }


def test_outcomes_are_counted_as_updates_skipped_and_dead_letters() -> None:
    exported = metrics()
    exported.counted({"embedded": 3, "features_text": 3, "stale": 2, "embedding_unchanged": 4, "refused_decode": 1})
    exported.dead_letters({"decode": 1})
    seen = scraped(exported)
    assert seen["sagelift_updates_total", "embedded"] == 3
    assert seen["sagelift_updates_total", "features_text"] == 3
    assert seen["sagelift_skipped_total", "stale"] == 2
    assert seen["sagelift_skipped_total", "embedding_unchanged"] == 4
    assert seen["sagelift_dead_letters_total", "decode"] == 1
    assert not [key for key in seen if "refused_decode" in key], "a refusal is counted once, as a dead letter"


def test_batches_stages_retries_and_freshness_are_counted_in_base_units() -> None:
    exported = metrics()
    exported.finished(40, 1)
    exported.stage_done("features", 40, 0.2)
    exported.stage_failed("embeddings", ConnectionError("Triton at host:8001 does not answer"))
    exported.fresh([120.0, 900.0])
    seen = scraped(exported)
    assert seen["sagelift_records_total",] == seen["sagelift_batch_records_sum",] == 40
    assert seen["sagelift_stage_seconds_sum", "features"] == pytest.approx(0.2)
    assert seen["sagelift_retries_total", "ConnectionError", "embeddings"] == 1
    assert seen["sagelift_freshness_seconds_sum",] == pytest.approx(1.02)
    assert seen["sagelift_freshness_seconds_bucket", "0.15"] == 1
    assert seen["sagelift_freshness_seconds_bucket", "1.0"] == 2


def test_live_values_are_read_at_the_scrape() -> None:
    seen = scraped(metrics())
    assert (seen["sagelift_lag_records", "0"], seen["sagelift_lag_records", "1"]) == (5, 7)
    assert (seen["sagelift_partitions",], seen["sagelift_in_flight_records",]) == (2, 12)
    assert (seen["sagelift_poison_share",], seen["sagelift_last_poll_timestamp_seconds",]) == (0.25, 1000)
    assert {key[1]: value for key, value in seen.items() if key[0] == "sagelift_state"} == {
        state: float(state == "running") for state in HealthState
    }


def test_unknown_values_are_absent() -> None:
    seen = scraped(metrics(LiveValues(HealthState.STARTING, 0, {}, 0, None, None)))
    shown = {key[0] for key in seen}
    assert not shown & {"sagelift_lag_records", "sagelift_poison_share", "sagelift_last_poll_timestamp_seconds"}


def test_the_circuit_to_triton_is_in_one_state() -> None:
    seen = scraped(metrics(LIVE._replace(circuit=CircuitState.OPEN)))
    assert {state: seen["sagelift_triton_circuit", state] for state in CircuitState} == {
        "closed": 0,
        "open": 1,
        "half_open": 0,
    }
    assert not any(key[0] == "sagelift_triton_circuit" for key in scraped(metrics(LIVE._replace(circuit=None))))


def test_a_senders_choice_never_becomes_a_label() -> None:
    exported = metrics()
    exported.unknown_fields({"x" * 1000: 3, "colour-17": 2})
    assert scraped(exported)["sagelift_unknown_fields_total",] == 5
    assert b"colour-17" not in generate_latest(exported.registry)


def test_the_documented_metrics_are_the_exported_ones_with_their_labels() -> None:
    result = metrics()
    result.counted({"embedded": 1, "stale": 1})
    result.stage_done("features", 1, 0.1)
    result.stage_failed("features", ValueError())
    exported: dict[str, set[str]] = {}
    for name, samples in parse(generate_latest(result.registry).decode()).items():
        if name.startswith("sagelift_"):
            family = re.sub(r"_(bucket|sum|count)$", "", name)
            exported.setdefault(family, set()).update(*(labels for labels, _ in samples))
    page = (Path(__file__).parents[3] / "docs" / "operators" / "consumers.md").read_text()
    rows = re.findall(r"^\| `(sagelift_\w+)` \| \w+ \|([^|]*)\|", page, re.M)
    documented = {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows}
    assert {name: labels - {"consumer", "le"} for name, labels in exported.items()} == documented
    used = {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"sagelift_[a-z_]+", page)}
    assert used <= exported.keys(), "queries and alerts name what there is"


def test_every_state_is_explained() -> None:
    page = (Path(__file__).parents[3] / "docs" / "operators" / "consumers.md").read_text()
    assert set(re.findall(r"^\| `(\w+)` \| (?:yes|no) \|", page, re.M)) == set(HealthState)

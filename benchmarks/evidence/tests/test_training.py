"""Variants are trained once, and an interrupted run resumes."""

import multiprocessing
from pathlib import Path

import psutil

from benchmarks.evidence.results import read_results
from benchmarks.evidence.tests.builders import catalogue
from benchmarks.evidence.training import ablate
from benchmarks.evidence.variants import CEILING, FULL, SUM, EvidenceConfig
from inference.training.engagements import TASKS
from tests.waiting import wait_until

BRIEF = EvidenceConfig(seeds=(1, 2), visits_per_product=20, steps=3, search_steps=2, variants=(FULL, "image_only"))


def test_finished_trainings_are_kept_and_not_repeated(tmp_path: Path) -> None:
    """A run that stopped, even in the middle of a line, continues with the next training."""
    results = tmp_path / "results.jsonl"
    first = ablate([catalogue()], BRIEF, results)
    assert [(t.variant, t.seed) for t in first] == [(v, s) for s in (1, 2) for v in (CEILING, SUM, FULL, "image_only")]
    by = {(t.variant, t.seed): t for t in first}
    assert by[CEILING, 1].known_products.mean_recall > by[SUM, 1].known_products.mean_recall
    assert set(by[FULL, 1].known_products.recall) <= set(TASKS)

    lines = results.read_bytes().splitlines(keepends=True)
    results.write_bytes(b"".join(lines[:-1]) + lines[-1][:20])
    progress: list[tuple[int, int]] = []
    again = ablate([catalogue()], BRIEF, results, on_result=lambda done, total: progress.append((done, total)))
    assert progress == [(7, 8), (8, 8)]
    assert [t.known_products for t in again] == [t.known_products for t in first], "and the same comes out"
    assert len(read_results(results)) == 8


def test_a_killed_run_leaves_no_process_behind(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    run = context.Process(
        target=ablate, args=([catalogue()], EvidenceConfig(steps=100_000), tmp_path / "results.jsonl")
    )
    run.start()
    try:
        wait_until(lambda: psutil.Process(run.pid).children(), "no process of the pool started", timeout_s=60)
        workers = psutil.Process(run.pid).children()
    finally:
        run.kill()
    _, alive = psutil.wait_procs(workers, 30)
    assert not alive

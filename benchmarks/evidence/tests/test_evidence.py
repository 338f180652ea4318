"""The evidence: trained once, kept, taken up again; and the card says no more than the results do."""

import multiprocessing
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from benchmarks.evidence.evidence import (
    CEILING,
    FULL,
    SUM,
    VARIANTS,
    Catalogue,
    EvidenceConfig,
    Trained,
    ablate,
    read_results,
)
from benchmarks.evidence.model_card import Interval, interval, verdict, write_card
from inference.errors import ArtifactError, InputError
from inference.inputs import ProductInput
from inference.training.engagements import TASKS
from inference.training.evaluation import Evaluation
from sagelift.demo.shoppers import ShopProduct

BRIEF = EvidenceConfig(seeds=(1, 2), visits_per_product=20, steps=3, search_steps=2, variants=(FULL, "image_only"))


def catalogue() -> Catalogue:
    rng = np.random.default_rng(0)
    kinds = ("lamp", "tent", "mug", "boot")
    texts = [{"title": f"{kinds[i % 4]} number {i}", "product_type": kinds[i % 4]} for i in range(60)]
    vectors = rng.normal(size=(60, 1, 256)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    return Catalogue(
        "tiny",
        [ProductInput(f"p{i}", text, vectors[i]) for i, text in enumerate(texts)],
        [ShopProduct(f"p{i}", text, 500 + 40 * i, "EUR") for i, text in enumerate(texts)],
        rng.normal(size=(60, 48)),
    )


def test_results_are_kept_as_they_come_and_not_trained_again(tmp_path: Path) -> None:
    """A run that was broken off, in the middle of a line too, goes on where it was."""
    results = tmp_path / "results.jsonl"
    first = ablate([catalogue()], BRIEF, results)
    assert [(t.variant, t.seed) for t in first] == [(v, s) for s in (1, 2) for v in (CEILING, SUM, FULL, "image_only")]
    by = {(t.variant, t.seed): t for t in first}
    assert by[CEILING, 1].known_products.mean_recall > by[SUM, 1].known_products.mean_recall
    assert set(by[FULL, 1].known_products.recall) <= set(TASKS)

    lines = results.read_bytes().splitlines(keepends=True)
    results.write_bytes(b"".join(lines[:-1]) + lines[-1][:20])
    told: list[tuple[int, int]] = []
    again = ablate([catalogue()], BRIEF, results, on_result=lambda done, total: told.append((done, total)))
    assert told == [(7, 8), (8, 8)]
    assert [t.known_products for t in again] == [t.known_products for t in first], "and the same comes out"
    assert len(read_results(results)) == 8


def test_killed_it_leaves_no_process_behind(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    run = context.Process(
        target=ablate, args=([catalogue()], EvidenceConfig(steps=100_000), tmp_path / "results.jsonl")
    )
    run.start()
    try:
        deadline = time.monotonic() + 60
        while not (workers := psutil.Process(run.pid).children()) and time.monotonic() < deadline:
            run.join(0.05)
    finally:
        run.kill()
    assert workers
    _, alive = psutil.wait_procs(workers, 30)
    assert not alive


def test_a_file_of_something_else_is_no_result(tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").write_text("hello\n")
    with pytest.raises(ArtifactError, match="line 1 is no result"):
        read_results(tmp_path / "results.jsonl")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"variants": ("half",)}, "there is no variant 'half'"),
        ({"steps": 0}, r"steps \(0\) must be at least 1"),
        ({"seeds": (1,)}, r"seeds \(1\) must be at least two"),
    ],
)
def test_a_wrong_configuration_is_named(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        EvidenceConfig(**wrong)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------------ the card


def result(variant: str, seed: int, recall: float) -> Trained:
    of_tasks = Evaluation(dict.fromkeys(TASKS, recall), dict.fromkeys(TASKS, 100), recall, 0.5)
    return Trained(
        catalogue="shop", digest=f"{variant}{seed}", variant=variant, seed=seed, products=90, pairs=800, queries=70,
        seconds=1.0, known_products=of_tasks, new_products=of_tasks,
    )  # fmt: skip


def test_the_interval_is_students_over_the_seeds() -> None:
    """Of 1, 2, 3: mean 2, standard error 1 / sqrt(3), t with two degrees of freedom 4.303."""
    assert interval([1.0, 2.0, 3.0]) == pytest.approx((2.0, 4.3027 / 3**0.5), rel=1e-4)


@pytest.mark.parametrize(
    ("mean", "half", "tie", "expected"),
    [
        (0.05, 0.01, False, "holds"),
        (-0.05, 0.01, False, "does not hold"),
        (0.05, 0.06, False, "undecided"),
        (0.05, 0.01, True, "does not hold"),
        (0.00, 0.01, True, "holds"),
        (-0.05, 0.01, True, "holds"),
        (0.00, 0.06, True, "undecided"),
    ],
)
def test_a_direction_holds_only_if_its_interval_says_so(mean: float, half: float, tie: bool, expected: str) -> None:
    assert verdict(Interval(mean, half), tie) == expected


def test_the_card_tells_what_the_results_are_and_what_was_not_run(tmp_path: Path) -> None:
    recall = {FULL: 0.4, SUM: 0.1, CEILING: 0.6, "image_only": 0.41}
    results = [result(v, s, r + 0.001 * s) for v, r in recall.items() for s in (1, 2, 3)]
    write_card(results, EvidenceConfig(), tmp_path / "card.md", "sagelift model ablate --products 90")
    card = (tmp_path / "card.md").read_text()
    assert "`sagelift model ablate --products 90`" in card
    assert (
        "| Training beats the sum of the images | ItemSage − Sum, untrained | all tasks | +0.300 ± 0.000: **holds** |"
        in card
    )
    assert (
        "| Images and text beat images | ItemSage − images only | all tasks | -0.010 ± 0.000: **does not hold** |"
        in card
    )
    assert "| The transformer beats Sum-MLP | ItemSage − Sum-MLP | all tasks | not run |" in card
    assert "| **ItemSage** | 0.402 ± 0.002 |" in card
    assert "(card.svg)" in card
    assert (tmp_path / "card.svg").read_text().startswith("<?xml")
    assert not list(tmp_path.glob("*.partial"))


def test_every_variant_has_a_name() -> None:
    from benchmarks.evidence.model_card import DIRECTIONS, NAMES

    assert set(NAMES) == {CEILING, SUM, *VARIANTS}
    assert {d.better for d in DIRECTIONS} | {d.worse for d in DIRECTIONS} | {CEILING} == set(NAMES)
